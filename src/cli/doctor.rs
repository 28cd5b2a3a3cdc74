//! `actchain doctor`: configuration, database, clock, keys, reachability of issuers. Exits 0 if nothing is wrong.

use std::process::ExitCode;

use serde_json::json;
use sqlx::postgres::PgPool;
use time::{Duration, OffsetDateTime};

use super::foundation::{self, Foundation};
use super::print_json;
use crate::domain::{key, registry};
use crate::platform::config::Config;
use crate::platform::fault::Fault;
use crate::platform::outbound::{Outbound, Reach};

/// How far the database's clock may be from ours.
const MOST_DRIFT: Duration = Duration::seconds(2);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long)]
    json: bool,
}

struct Finding {
    what: String,
    wrong: Option<String>,
}

impl Finding {
    fn of<T>(what: impl Into<String>, result: Result<T, Fault>) -> Self {
        Self { what: what.into(), wrong: result.err().map(|fault| fault.to_string()) }
    }
}

pub(super) async fn run(config: Result<Config, Fault>, args: Args) -> Result<ExitCode, Fault> {
    let mut findings = Vec::new();
    match config {
        Err(fault) => findings.push(Finding::of::<()>("configuration", Err(fault))),
        Ok(config) => {
            findings.push(Finding::of("configuration", Ok(())));
            let looked =
                foundation::with(config, async |foundation, pool| look(foundation, pool).await).await;
            match looked {
                Ok(more) => findings.extend(more),
                Err(fault) => findings.push(Finding::of::<()>("database", Err(fault))),
            }
        }
    }
    let well = findings.iter().all(|finding| finding.wrong.is_none());
    if args.json {
        let list: Vec<_> = findings
            .iter()
            .map(|one| json!({"check": one.what, "ok": one.wrong.is_none(), "problem": one.wrong}))
            .collect();
        print_json(&json!({"ok": well, "checks": list}))?;
    } else {
        for finding in &findings {
            match &finding.wrong {
                None => println!("ok    {}", finding.what),
                Some(wrong) => println!("WRONG {}: {wrong}", finding.what),
            }
        }
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn look(foundation: &Foundation, pool: &PgPool) -> Result<Vec<Finding>, Fault> {
    let issuer = foundation.config.issuer();
    let mut connection = pool.acquire().await?;
    let version: String =
        sqlx::query_scalar("SELECT current_setting('server_version')").fetch_one(&mut *connection).await?;
    let mut findings = vec![Finding::of(format!("database: PostgreSQL {version}, schema current"), Ok(()))];
    let theirs: OffsetDateTime =
        sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut *connection).await?;
    let drift = (theirs - foundation.clock.now()).abs();
    let within = if drift <= MOST_DRIFT {
        Ok(())
    } else {
        Err(Fault::new(format!("the database's clock is {} s away from ours", drift.whole_seconds())))
    };
    findings.push(Finding::of("clock", within));
    let stored = key::store::list(&mut connection).await?;
    let opened = foundation.seal().and_then(|seal| {
        let active = stored.iter().filter(|key| key.stage() == key::Stage::Active);
        active.map(|key| key.open(&seal)).collect::<Result<Vec<_>, _>>()
    });
    let keys = if stored.is_empty() {
        "keys: none yet, made at the first start"
    } else {
        "keys: open under the master key"
    };
    findings.push(Finding::of(keys, opened));
    let outbound = Outbound::new(Reach::of_issuer(&issuer))?;
    let registered = registry::store::load(&mut connection, &issuer).await?;
    for (iss, one) in &registered.issuers {
        let Some(url) = &one.jwks_uri else { continue };
        findings.push(Finding::of(format!("issuer {iss}: {url}"), outbound.get_json(url).await));
    }
    Ok(findings)
}
