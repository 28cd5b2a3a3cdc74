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
    app.read(async |connection| db::schema(connection).await).await?.require_current()
}

/// Prometheus text format.
pub(super) async fn metrics(app: web::Data<App>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(app.metrics.render())
}
