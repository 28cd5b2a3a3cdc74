//! The object that `actchain top --once --json` prints. `docs/reference/top.md` describes it.

use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::state::State;
use crate::cli::output::to_value;
use crate::platform::clock::rfc3339;
use crate::platform::fault::Fault;
use crate::services::audit::health::LogHealthView;
use crate::services::top::{LedgerNumbers, Part, TopSnapshot};

/// The members of a snapshot that was read at an instant.
pub(super) fn object(state: &State, at: OffsetDateTime, snapshot: &TopSnapshot) -> Result<Value, Fault> {
    let server = snapshot.server.as_ref().map(|server| {
        json!({"issuer": server.issuer, "listen": server.listen, "pid": server.pid, "started_at": rfc3339(server.started_at)})
    });
    Ok(json!({
        "at": rfc3339(at),
        "issuer": state.issuer,
        "database": state.place,
        "server": server,
        "rates": part(&snapshot.rates)?,
        "waiting": part(&snapshot.waiting)?,
        "chains": part(&snapshot.chains)?,
        "events": part(&snapshot.events)?,
        "findings": part(&snapshot.findings)?,
        "log": match snapshot.log.as_read() {
            Ok(health) => to_value(&LogHealthView::from(health))?,
            Err(error) => json!({"error": error}),
        },
        "ledger": to_value(&LedgerNumbers::from(&snapshot.ledger))?,
        "settings": part(&snapshot.settings)?,
    }))
}

fn part<T: Serialize>(part: &Part<T>) -> Result<Value, Fault> {
    to_value(part)
}
