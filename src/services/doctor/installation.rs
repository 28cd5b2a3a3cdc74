//! Examines an installation: database, issuer, clock, log, keys, outbound requests, rows, issuers, registrars. Reads only.

use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use time::{Duration, OffsetDateTime};

use super::finding::DoctorFinding;
use super::issuers::IssuerExaminer;
use crate::domain::audit::store;
use crate::domain::client::Client;
use crate::domain::key::StoredKey;
use crate::domain::row_mac::RowMac;
use crate::domain::{client, key, registrar, registry, server_info};
use crate::platform::clock::{Clock, rfc3339};
use crate::platform::config::{Config, OutboundConfig};
use crate::platform::db;
use crate::platform::fault::Fault;
use crate::platform::outbound::Outbound;
use crate::platform::seal::SealingKey;
use crate::services::audit;

/// The most that the database's clock may differ from this machine's.
const MAX_DRIFT: Duration = Duration::seconds(2);
/// The largest log that is verified, in events: a larger log takes too long to wait for.
const MAX_VERIFIED: u64 = 200_000;

/// The configuration and the database of a server, running or not.
#[derive(Debug)]
pub struct Installation<'a> {
    pub config: &'a Config,
    pub clock: &'a Clock,
    pub pool: &'a PgPool,
    /// Where the database is, in words.
    pub place: String,
    /// What opens stored secrets, or why there is none.
    pub seal: Result<SealingKey, Fault>,
}

impl Installation<'_> {
    /// Examines everything. What was found until a fault, or until the future is dropped, is in `findings`.
    ///
    /// # Errors
    /// A fault of the database.
    pub async fn examine(&self, findings: &mut Vec<DoctorFinding>) -> Result<(), Fault> {
        let mut connection = self.pool.acquire().await?;
        self.examine_database(&mut connection, findings).await?;
        let stored = key::store::list(&mut connection).await?;
        let opened = self.seal().and_then(|seal| {
            let active = stored.iter().filter(|key| key.state() == key::KeyState::Active);
            active.map(|key| key.open(seal)).collect::<Result<Vec<_>, _>>()
        });
        findings.push(log(&mut connection, &stored).await?);
        let keys = if stored.is_empty() {
            "keys: none yet, made at the first start"
        } else {
            "keys: open under the master key"
        };
        findings.push(DoctorFinding::of(keys, opened));
        let settings = outbound_settings(&self.config.outbound);
        let outbound = Outbound::configured(self.config, self.clock.now());
        let (outbound, made) = match outbound {
            Ok(outbound) => (Some(outbound), Ok(())),
            Err(fault) => (None, Err(fault)),
        };
        findings.push(DoctorFinding::of(settings, made));
        // A database that no server or command has written to has no rows to check.
        if key::store::find_secret(&mut connection, key::ROW_MAC).await?.is_none() {
            return Ok(());
        }
        let rows = match self.seal() {
            Ok(seal) => RowMac::open(&mut connection, seal).await,
            Err(fault) => Err(fault),
        };
        let rows = match rows {
            Ok(rows) => rows,
            Err(fault) => {
                findings.push(DoctorFinding::of::<()>("rows: the key of their MACs", Err(fault)));
                return Ok(());
            }
        };
        let clients = client::store::list(&rows, &mut connection).await;
        let warnings = clients.as_ref().map(|all| exceptions(all)).unwrap_or_default();
        findings.push(DoctorFinding { warnings, ..DoctorFinding::of("clients: rows authentic", clients) });
        let registered = registry::store::load(&rows, &mut connection, &self.config.issuer()).await;
        let declared = registered.as_ref().map(|found| found.issuers.clone()).unwrap_or_default();
        findings.push(DoctorFinding::of("issuers and resources: rows authentic", registered));
        if let Some(outbound) = &outbound {
            let (seal, now) = (self.seal(), self.clock.now());
            let examiner = IssuerExaminer { outbound, seal, keys: &stored, now };
            examiner.examine(&declared, findings).await;
        }
        findings.extend(registrars(&mut connection).await?);
        Ok(())
    }

    async fn examine_database(
        &self,
        connection: &mut PgConnection,
        findings: &mut Vec<DoctorFinding>,
    ) -> Result<(), Fault> {
        let issuer = self.config.issuer();
        let version = db::server_version(connection).await?;
        let database = format!("database: PostgreSQL {version}, schema current, {}", self.place);
        findings.push(DoctorFinding::of(database, Ok(())));
        findings.push(match server_info::find(connection).await? {
            None => DoctorFinding::of(format!("issuer: {issuer}, not served yet"), Ok(())),
            Some(server) if server.issuer == issuer => {
                DoctorFinding::of(format!("issuer: {issuer}"), Ok(()))
            }
            Some(server) => DoctorFinding::of::<()>(
                "issuer",
                Err(Fault::new(format!(
                    "the configuration says {issuer}, but the database is served as {} (on {}, by process {})",
                    server.issuer, server.listen, server.pid
                ))),
            ),
        });
        let theirs: OffsetDateTime =
            sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *connection).await?;
        let drift = (theirs - self.clock.now()).abs();
        let within = if drift <= MAX_DRIFT {
            Ok(())
        } else {
            Err(Fault::new(format!("the database's clock is {} s away from ours", drift.whole_seconds())))
        };
        findings.push(DoctorFinding::of("clock", within));
        Ok(())
    }

    fn seal(&self) -> Result<&SealingKey, Fault> {
        self.seal.as_ref().map_err(|fault| Fault::new(fault.to_string()))
    }
}

/// The exceptions of clients; of many, the first ones.
fn exceptions(clients: &[Client]) -> Vec<String> {
    const MAX_SHOWN: usize = 20;
    let of = |one: &Client| {
        let id = one.client_id.clone();
        one.exceptions().into_iter().map(move |exception| format!("{id} has {}", exception.declaration()))
    };
    let mut all: Vec<String> = clients.iter().flat_map(of).collect();
    let more = all.len().saturating_sub(MAX_SHOWN);
    all.truncate(MAX_SHOWN);
    all.extend((more > 0).then(|| format!("{more} more exceptions: `actchain client show ID` lists them")));
    all
}

/// What is left to do at registrars. A registrar that fails is a warning: nothing is lost.
async fn registrars(connection: &mut PgConnection) -> Result<Vec<DoctorFinding>, Fault> {
    let finding = |backlog: registrar::store::Backlog| {
        let what =
            format!("registrar {}: {} agents to register or delete", backlog.registrar, backlog.waiting);
        let warning = backlog.failing_since.zip(backlog.last_error).map(|(since, error)| {
            format!("requests fail; the oldest agent is of {}: {error}", rfc3339(since))
        });
        DoctorFinding { warnings: warning.into_iter().collect(), ..DoctorFinding::of(what, Ok(())) }
    };
    Ok(registrar::store::backlogs(connection).await?.into_iter().map(finding).collect())
}

/// Where the server's requests can go, and who vouches for the servers there.
fn outbound_settings(config: &OutboundConfig) -> String {
    let mut settings = "outbound: public addresses".to_owned();
    if !config.allow.texts().is_empty() {
        settings = format!("{settings}, {}", config.allow.texts().join(", "));
    }
    match &config.ca_file {
        Some(path) => format!("{settings}; authorities of the system and of {}", path.display()),
        None => settings,
    }
}

/// Verifies the audit log: a partly restored database has gaps in the log, or no keys.
async fn log(connection: &mut PgConnection, keys: &[StoredKey]) -> Result<DoctorFinding, Fault> {
    let size = store::head(connection).await?.size();
    let what = format!("audit log: {size} events");
    if size > MAX_VERIFIED {
        return Ok(DoctorFinding::of(format!("{what}; `actchain audit verify` checks them"), Ok(())));
    }
    let report = audit::verify_database(connection, &audit::TrustAnchors::default()).await?;
    let restore = "restore the backup again, into an empty database";
    Ok(match report.integrity_error {
        Some(integrity_error) => DoctorFinding::of::<()>(
            what,
            Err(Fault::new(format!(
                "the log is broken at event {}: if this database was restored, {restore}",
                integrity_error.seq
            ))),
        ),
        None if keys.is_empty() && report.checkpoints > 0 => DoctorFinding::of::<()>(
            what,
            Err(Fault::new(format!(
                "checkpoints were signed, but there is no signing key any more: {restore}"
            ))),
        ),
        None => DoctorFinding::of(format!("{what}, whole"), Ok(())),
    })
}
