//! For operators: liveness, readiness and metrics.

use actix_web::{HttpResponse, web};
use serde::Serialize;

use crate::app::App;
use crate::platform::db;
use crate::platform::fault::Fault;

#[derive(Serialize)]
struct Status {
    status: &'static str,
}

/// Liveness: the process answers.
pub(super) async fn health() -> HttpResponse {
    HttpResponse::Ok().json(Status { status: "ok" })
}

/// Readiness: database, schema and keys are available.
pub(super) async fn ready(app: web::Data<App>) -> HttpResponse {
    match check(&app).await {
        Ok(()) => HttpResponse::Ok().json(Status { status: "ready" }),
        Err(fault) => {
            tracing::warn!(error = %fault, "not ready");
            HttpResponse::ServiceUnavailable().json(Status { status: "not ready" })
        }
    }
}

async fn check(app: &App) -> Result<(), Fault> {
    app.read(async |connection| db::schema(connection).await).await?.require_current("the database")
}

/// Metrics in the Prometheus text format.
pub(super) async fn metrics(app: web::Data<App>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(app.metrics.render())
}
