//! The HTTP server of a witness: `POST /add-checkpoint` (c2sp.org/tlog-witness).

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{App as Service, HttpResponse, HttpServer as ActixServer, web};

use super::HttpServer;
use crate::platform::clock::Clock;
use crate::platform::fault::{Context, Fault};
use crate::services::witness::{Witness, WitnessError};
use actchain_protocol::tlog_witness::{self, SIZE_MEDIA_TYPE, WitnessRefusal};

/// Largest body: 63 hashes and a checkpoint with all signatures that a note may have.
const MAX_BODY: usize = 64 * 1024;

/// Serves a witness on a bound listener, by one worker.
pub fn start(witness: Witness, clock: Clock, listener: TcpListener) -> Result<HttpServer, Fault> {
    let address = listener.local_addr().context("listening")?;
    let witness = web::Data::from(Arc::new(witness));
    let clock = web::Data::new(clock);
    let server = ActixServer::new(move || {
        Service::new()
            .app_data(witness.clone())
            .app_data(clock.clone())
            .app_data(web::PayloadConfig::new(MAX_BODY))
            .service(web::resource(tlog_witness::PATH).route(web::post().to(add_checkpoint)))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(10)
    .client_request_timeout(Duration::from_secs(10))
    .listen(listener)
    .context("serving")?
    .run();
    Ok(HttpServer { address, server })
}

async fn add_checkpoint(body: String, witness: web::Data<Witness>, clock: web::Data<Clock>) -> HttpResponse {
    let now = clock.now();
    let answered = web::block(move || witness.add_checkpoint(&body, now)).await;
    match answered {
        Ok(Ok(line)) => HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(line),
        Ok(Err(WitnessError::Refused(refusal))) => refused(refusal),
        Ok(Err(WitnessError::Fault(fault))) => {
            tracing::error!(error = %fault, "no cosignature");
            HttpResponse::InternalServerError().finish()
        }
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}

fn refused(refusal: WitnessRefusal) -> HttpResponse {
    tracing::debug!(?refusal, "a checkpoint was refused");
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    match refusal {
        WitnessRefusal::OldSize(size) => {
            response.content_type(SIZE_MEDIA_TYPE).body(tlog_witness::size_text(size))
        }
        _ => response.finish(),
    }
}
