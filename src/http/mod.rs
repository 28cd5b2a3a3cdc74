//! ENTRY POINT: HTTP. The only importer of actix; lists every route and its guard.

mod connections;
mod cors;
mod credentials;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod management;
mod oauth;
mod params;
mod pending_authorization;
mod problem;
mod request_log;
mod transparency;
mod vault;
mod vault_proxy;
pub mod witness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::{App as Service, HttpServer as ActixServer, guard, web};
use tracing_actix_web::TracingLogger;

use self::connections::Connections;
use self::management::{audit_export, audit_logs, audit_sinks, audit_stream, delegations, principals};
use self::oauth::{introspection, metadata, revocation, status_list, token};
use crate::app::App;
use crate::platform::fault::{Context, Fault};
use actchain_protocol::metadata::{issuer_path, well_known_paths};

/// The proxy's `path` is the path at the upstream host: any number of segments.
const PROXY: &str = "/vault/proxy/{connection}/{host}/{path}";

/// Every path below the issuer's path with its methods. A test compares this list with `openapi.yaml`.
pub const ROUTES: &[(&str, &[&str])] = &[
    ("/oauth/token", &["POST"]),
    ("/oauth/introspect", &["POST"]),
    ("/oauth/revoke", &["POST"]),
    ("/oauth/jwks", &["GET"]),
    ("/oauth/status-lists", &["GET"]),
    ("/oauth/status-lists/{list}", &["GET"]),
    ("/delegate", &["GET", "POST"]),
    ("/delegate/{id}", &["GET"]),
    ("/delegate/{id}/approve", &["POST"]),
    ("/delegate/{id}/deny", &["POST"]),
    ("/delegate/{id}/revoke", &["POST"]),
    ("/delegate/{id}/renew", &["POST"]),
    ("/delegate/{id}/commands", &["POST"]),
    ("/delegate/{id}/rotate-key", &["POST"]),
    ("/delegate/{id}/ceremonies", &["GET"]),
    ("/delegate/{id}/ceremonies/{ceremony}/approve", &["POST"]),
    ("/delegate/{id}/ceremonies/{ceremony}/deny", &["POST"]),
    ("/agents", &["GET"]),
    ("/api/v1/principals/revoke-all", &["POST"]),
    ("/delegate/{id}/impact", &["GET"]),
    ("/api/v1/principals/impact", &["GET"]),
    ("/api/v1/clients/{id}/disable", &["POST"]),
    ("/api/v1/clients/{id}/enable", &["POST"]),
    ("/api/v1/clients/{id}/keys/{jkt}", &["DELETE"]),
    ("/api/v1/tasks/{id}/agents", &["DELETE"]),
    ("/api/v1/providers", &["GET"]),
    ("/api/v1/providers/{id}", &["PUT"]),
    ("/api/v1/audit-logs/export", &["GET"]),
    ("/api/v1/audit-sinks", &["GET"]),
    ("/api/v1/audit-sinks/{id}", &["GET", "PUT", "DELETE"]),
    ("/api/v1/audit-sinks/{id}/dead-letters", &["GET"]),
    ("/api/v1/audit-sinks/{id}/dead-letters/replay", &["POST"]),
    ("/api/v1/connections", &["GET", "POST"]),
    ("/api/v1/connections/{id}", &["GET"]),
    ("/api/v1/connections/{id}/rotate", &["POST"]),
    ("/api/v1/connections/{id}/disconnect", &["POST"]),
    ("/vault/connections/{id}/token", &["POST"]),
    ("/api/v1/connections/{id}/finish", &["POST"]),
    ("/vault/callback/{provider}", &["GET"]),
    (PROXY, &["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ("/api/v1/audit-logs", &["GET"]),
    ("/api/v1/audit-logs/{id}", &["GET"]),
    ("/api/v1/audit-logs/stream", &["GET"]),
    ("/api/v1/audit-logs/chains", &["GET"]),
    ("/api/v1/audit-logs/chains/{txn}", &["GET"]),
    ("/api/v1/agents/{id}/delegations/graph", &["GET"]),
    ("/audit/checkpoint", &["GET"]),
    ("/audit/checkpoint/cosignatures", &["POST"]),
    ("/audit/keys", &["GET"]),
    ("/audit/proof/inclusion", &["GET"]),
    ("/audit/proof/consistency", &["GET"]),
    ("/audit/tile/entries/{tile}", &["GET"]),
    ("/audit/tile/{level}/{tile}", &["GET"]),
    ("/.well-known/oauth-authorization-server", &["GET"]),
    ("/health", &["GET"]),
    ("/ready", &["GET"]),
    ("/metrics", &["GET"]),
];

/// OAuth endpoints: public, or authenticated by the client's own credentials.
fn oauth(config: &mut web::ServiceConfig, at: &dyn Fn(&str) -> String) {
    config
        .service(web::resource(at("/oauth/token")).route(web::post().to(token::post)))
        .service(web::resource(at("/oauth/introspect")).route(web::post().to(introspection::post)))
        .service(web::resource(at("/oauth/revoke")).route(web::post().to(revocation::post)))
        .service(web::resource(at("/oauth/jwks")).route(reading().to(metadata::jwks)))
        .service(web::resource(at("/oauth/status-lists")).route(reading().to(status_list::list)))
        .service(web::resource(at("/oauth/status-lists/{list}")).route(reading().to(status_list::show)));
}

/// The management API, authorized by an access token: user tokens, and DPoP-bound tokens of agents and administrators.
fn management(config: &mut web::ServiceConfig, at: &dyn Fn(&str) -> String) {
    let below = |path: &str| web::resource(at(&format!("/delegate/{{id}}{path}")));
    config
        .service(
            web::resource(at("/delegate"))
                .route(web::post().to(delegations::create))
                .route(web::get().to(delegations::list)),
        )
        .service(below("").route(web::get().to(delegations::show)))
        .service(below("/approve").route(web::post().to(delegations::approve)))
        .service(below("/deny").route(web::post().to(delegations::deny)))
        .service(below("/revoke").route(web::post().to(delegations::revoke)))
        .service(below("/impact").route(web::get().to(principals::impact_of_delegation)))
        .service(below("/renew").route(web::post().to(delegations::renew)))
        .service(below("/commands").route(web::post().to(delegations::commands)))
        .service(below("/rotate-key").route(web::post().to(delegations::rotate_key)))
        .service(below("/ceremonies").route(web::get().to(delegations::list_ceremonies)))
        .service(below("/ceremonies/{ceremony}/approve").route(web::post().to(delegations::approve_ceremony)))
        .service(below("/ceremonies/{ceremony}/deny").route(web::post().to(delegations::deny_ceremony)))
        .service(web::resource(at("/agents")).route(web::get().to(delegations::agents)))
        .service(
            web::resource(at("/api/v1/principals/revoke-all")).route(web::post().to(principals::revoke_all)),
        )
        .service(web::resource(at("/api/v1/principals/impact")).route(web::get().to(principals::impact)))
        .service(web::resource(at("/api/v1/clients/{id}/disable")).route(web::post().to(principals::disable)))
        .service(web::resource(at("/api/v1/clients/{id}/enable")).route(web::post().to(principals::enable)))
        .service(
            web::resource(at("/api/v1/clients/{id}/keys/{jkt}"))
                .route(web::delete().to(principals::remove_key)),
        )
        .service(
            web::resource(at("/api/v1/tasks/{id}/agents")).route(web::delete().to(principals::end_task)),
        );
}

/// The export of the audit log, and its sinks.
fn audit_out(config: &mut web::ServiceConfig, at: &dyn Fn(&str) -> String) {
    let below = |path: &str| web::resource(at(&format!("/api/v1/audit-sinks/{{id}}{path}")));
    config
        .service(web::resource(at("/api/v1/audit-logs/export")).route(web::get().to(audit_export::get)))
        .service(web::resource(at("/api/v1/audit-sinks")).route(web::get().to(audit_sinks::list)))
        .service(
            below("")
                .route(web::get().to(audit_sinks::show))
                .route(web::put().to(audit_sinks::declare))
                .route(web::delete().to(audit_sinks::remove)),
        )
        .service(below("/dead-letters").route(web::get().to(audit_sinks::dead_letters)))
        .service(below("/dead-letters/replay").route(web::post().to(audit_sinks::replay)));
}

/// The vault: management by owners and administrators, and credentials for agents.
fn vault(config: &mut web::ServiceConfig, at: &dyn Fn(&str) -> String) {
    let below = |path: &str| web::resource(at(&format!("/api/v1/connections/{{id}}{path}")));
    config
        .service(web::resource(at("/api/v1/providers")).route(web::get().to(vault::providers)))
        .service(web::resource(at("/api/v1/providers/{id}")).route(web::put().to(vault::declare)))
        .service(
            web::resource(at("/api/v1/connections"))
                .route(web::post().to(vault::create))
                .route(web::get().to(vault::list)),
        )
        .service(below("").route(web::get().to(vault::show)))
        .service(below("/rotate").route(web::post().to(vault::rotate)))
        .service(below("/disconnect").route(web::post().to(vault::disconnect)))
        .service(web::resource(at("/vault/connections/{id}/token")).route(web::post().to(vault::token)))
        .service(below("/finish").route(web::post().to(vault::finish)))
        // Not for HEAD: what a browser brings is taken once.
        .service(
            web::resource(at("/vault/callback/{provider}"))
                .route(web::get().to(pending_authorization::callback)),
        )
        .service(web::resource(at("/vault/proxy/{rest:.*}")).route(passing().to(vault_proxy::call)));
}

/// The audit log, filtered to the events that the caller may read.
fn audit(config: &mut web::ServiceConfig, at: &dyn Fn(&str) -> String) {
    let below = |path: &str| web::resource(at(&format!("/api/v1/audit-logs{path}")));
    config
        .service(below("").route(web::get().to(audit_logs::list)))
        .service(below("/stream").route(web::get().to(audit_stream::get)))
        .service(below("/chains").route(web::get().to(audit_logs::chains)))
        .service(below("/chains/{txn}").route(web::get().to(audit_logs::chain)))
        // Last: actix takes the first route that matches, and `{id}` matches the names above, too.
        .service(below("/{id}").route(web::get().to(audit_logs::show)))
        .service(
            web::resource(at("/api/v1/agents/{id}/delegations/graph"))
                .route(web::get().to(audit_logs::agent_graph)),
        );
}

/// The public transparency log. Entry tiles need a token that may read the whole log.
fn transparency(config: &mut web::ServiceConfig, at: &dyn Fn(&str) -> String) {
    config
        .service(web::resource(at("/audit/checkpoint")).route(reading().to(transparency::checkpoint)))
        .service(
            web::resource(at("/audit/checkpoint/cosignatures")).route(web::post().to(transparency::cosign)),
        )
        .service(web::resource(at("/audit/keys")).route(reading().to(transparency::keys)))
        .service(web::resource(at("/audit/proof/inclusion")).route(reading().to(transparency::inclusion)))
        .service(web::resource(at("/audit/proof/consistency")).route(reading().to(transparency::consistency)))
        // A tile number takes one segment or several (c2sp.org/tlog-tiles).
        .service(
            web::resource(at("/audit/tile/entries/{tile:.*}")).route(reading().to(transparency::entries)),
        )
        .service(web::resource(at("/audit/tile/{tile:.*}")).route(reading().to(transparency::tile)));
}

fn routes(config: &mut web::ServiceConfig, issuer: &str) {
    let base = issuer_path(issuer);
    let at = |path: &str| format!("{base}{path}");
    oauth(config, &at);
    management(config, &at);
    audit_out(config, &at);
    vault(config, &at);
    audit(config, &at);
    transparency(config, &at);
    config
        // For operators: not below the issuer's path, and not for relying parties.
        .service(web::resource("/health").route(reading().to(health::health)))
        .service(web::resource("/ready").route(reading().to(health::ready)))
        .service(web::resource("/metrics").route(reading().to(health::metrics)));
    for path in well_known_paths(issuer) {
        config.service(web::resource(path).route(reading().to(metadata::document)));
    }
}

/// Matches GET and HEAD (RFC 9110 §9.3.2).
fn reading() -> actix_web::Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// The methods that the proxy forwards. TRACE would echo the credential; CONNECT would open a tunnel.
fn passing() -> actix_web::Route {
    let reading = guard::Any(guard::Get()).or(guard::Head());
    web::route().guard(reading.or(guard::Post()).or(guard::Put()).or(guard::Patch()).or(guard::Delete()))
}

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
                .configure(|config| routes(config, &issuer))
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
