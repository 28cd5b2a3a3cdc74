//! Requests cosignatures of the newest checkpoint from the witnesses.

use time::OffsetDateTime;

use crate::app::App;
use crate::platform::fault::Fault;
use crate::services::audit::cosignatures::{self, RequestResult};

/// Asks each witness with a URL once. Returns what came of each request.
pub async fn run_once(app: &App, now: OffsetDateTime) -> Result<Vec<(String, RequestResult)>, Fault> {
    cosignatures::request_cosignatures(app, now).await
}
