//! What whoever runs the server asks: is it alive, can it work, how is it doing.

use actix_web::{HttpResponse, web};
use serde_json::json;

use crate::app::App;
use crate::platform::db;
use crate::platform::fault::Fault;

/// The process answers.
pub(super) async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

/// Database, schema and keys are there.
pub(super) async fn ready(app: web::Data<App>) -> HttpResponse {
    match check(&app).await {
        Ok(()) => HttpResponse::Ok().json(json!({"status": "ready"})),
        Err(fault) => {
            tracing::warn!(error = %fault, "not ready");
            HttpResponse::ServiceUnavailable().json(json!({"status": "not ready"}))
        }
    }
}

async fn check(app: &App) -> Result<(), Fault> {
    let look = async {
        let mut connection = app.pool.acquire().await?;
        db::schema(&mut connection).await?.require_current()
    };
    let timeout = std::time::Duration::from_millis(app.config.ledger.timeout_ms);
    tokio::time::timeout(timeout, look).await.map_err(|_| Fault::new("the database does not answer"))?
}

/// Prometheus text format.
pub(super) async fn metrics(app: web::Data<App>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(app.metrics.render())
}
