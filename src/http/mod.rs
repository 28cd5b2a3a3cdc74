//! ENTRY POINT: HTTP. The only importer of actix. Every route is in `routes.rs`.

mod connect_cookie;
mod connections;
mod console;
mod cors;
mod credentials;
mod evidence_file;
mod file_pieces;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod log_file;
mod management;
mod oauth;
mod origin;
mod params;
mod pending_authorization;
mod problem;
mod redirect_params;
mod request_log;
mod routes;
mod session_file;
mod transparency;
mod vault;
mod vault_proxy;
pub mod witness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::{App as Service, HttpServer as ActixServer, web};
use tracing_actix_web::TracingLogger;

use self::connections::Connections;
pub use self::console::console_routes;
pub use self::routes::operations;
use crate::app::App;
use crate::platform::fault::{Context, Fault};

pub struct HttpServer {
    pub address: SocketAddr,
    server: Server,
}

impl HttpServer {
    /// Binds the address, without serving yet.
    pub fn bind(address: SocketAddr) -> Result<std::net::TcpListener, Fault> {
        std::net::TcpListener::bind(address).context(&format!("listening on {address}"))
    }

    pub fn start(app: &Arc<App>, listener: std::net::TcpListener) -> Result<Self, Fault> {
        let address = listener.local_addr().context("listening")?;
        let workers = match app.config.workers {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            workers => workers,
        };
        let shared = web::Data::from(Arc::clone(app));
        let connections = Connections::fitting(&app.config, workers)?;
        let (per_worker, counted) = (connections.per_worker(), connections.clone());
        let connections = web::Data::new(connections);
        let server = ActixServer::new(move || {
            let issuer = shared.issuer.clone();
            Service::new()
                .app_data(shared.clone())
                .app_data(connections.clone())
                .wrap(actix_web::middleware::from_fn(request_log::frame))
                .wrap(TracingLogger::<request_log::RequestSpan>::new())
                .configure(|config| routes::register(config, &issuer))
                .configure(|config| console::register(config, &shared))
                .default_service(web::to(problem::not_found))
        })
        .workers(workers)
        .max_connections(per_worker)
        .on_connect(move |_, data| counted.count(data))
        .disable_signals()
        .shutdown_timeout(10)
        .client_request_timeout(Duration::from_secs(10))
        // A closed connection cancels the request and its upstream calls.
        .h1_allow_half_closed(false)
        .listen(listener)
        .context("serving")?
        .run();
        Ok(Self { address, server })
    }

    /// The handle stops the server: no new connections are accepted, and requests in progress are finished.
    pub fn handle(&self) -> ServerHandle {
        self.server.handle()
    }

    pub async fn run(self) -> Result<(), Fault> {
        self.server.await.context("serving")
    }
}
