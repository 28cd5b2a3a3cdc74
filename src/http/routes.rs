//! Every route with its handler: one table, by which requests are routed and labelled. A test compares it with
//! `openapi.yaml`.

use std::cmp::Reverse;
use std::sync::LazyLock;

use actix_web::{Route, guard, web};

use crate::http::management::{
    audit_export, audit_logs, audit_sessions, audit_sinks, audit_stream, check, clients, delegations,
    manifest, principals, registry, sessions, standing_grants,
};
use crate::http::oauth::{introspection, metadata, revocation, status_list, token};
use crate::http::{health, pending_authorization, transparency, vault, vault_proxy};
use actchain_protocol::metadata::{issuer_path, well_known_paths};

/// The console, with all paths below it.
pub(super) const CONSOLE: &str = "/console";
/// Forwards requests to `host`. `path` is the path there: any number of segments.
pub(super) const PROXY: &str = "/vault/proxy/{connection}/{host}/{path}";

/// Operations at paths below the issuer's path. actix takes the first path that matches.
#[rustfmt::skip]
const BELOW_ISSUER: &[RouteOperation] = &[
    // OAuth endpoints: public, or authenticated by the client's own credentials.
    post("/oauth/token", || web::to(token::post)),
    post("/oauth/introspect", || web::to(introspection::post)),
    post("/oauth/revoke", || web::to(revocation::post)),
    read("/oauth/jwks", || web::to(metadata::jwks)),
    read("/oauth/status-lists", || web::to(status_list::list)),
    read("/oauth/status-lists/{list}", || web::to(status_list::show)),
    // The management API, authorized by an access token: user tokens, and DPoP-bound tokens of agents and administrators.
    get("/delegate", || web::to(delegations::list)),
    post("/delegate", || web::to(delegations::create)),
    get("/delegate/{id}", || web::to(delegations::show)),
    post("/delegate/{id}/approve", || web::to(delegations::approve)),
    post("/delegate/{id}/deny", || web::to(delegations::deny)),
    post("/delegate/{id}/revoke", || web::to(delegations::revoke)),
    get("/delegate/{id}/impact", || web::to(principals::impact_of_delegation)),
    post("/delegate/{id}/renew", || web::to(delegations::renew)),
    post("/delegate/{id}/steps", || web::to(delegations::report_steps)),
    post("/delegate/{id}/rotate-key", || web::to(delegations::rotate_key)),
    get("/delegate/{id}/ceremonies", || web::to(delegations::list_ceremonies)),
    post("/delegate/{id}/ceremonies/{ceremony}/approve", || web::to(delegations::approve_ceremony)),
    post("/delegate/{id}/ceremonies/{ceremony}/deny", || web::to(delegations::deny_ceremony)),
    get("/agents", || web::to(delegations::agents)),
    get("/api/v1/standing-grants", || web::to(standing_grants::list)),
    post("/api/v1/standing-grants", || web::to(standing_grants::create)),
    get("/api/v1/standing-grants/{id}", || web::to(standing_grants::show)),
    post("/api/v1/standing-grants/{id}/renew", || web::to(standing_grants::renew)),
    post("/api/v1/standing-grants/{id}/revoke", || web::to(standing_grants::revoke)),
    post("/api/v1/standing-grants/{id}/revalidate", || web::to(standing_grants::revalidate)),
    post("/api/v1/principals/revoke-all", || web::to(principals::revoke_all)),
    get("/api/v1/principals/impact", || web::to(principals::impact)),
    post("/api/v1/apply", || web::to(manifest::apply)),
    get("/api/v1/manifest", || web::to(manifest::show)),
    post("/api/v1/check", || web::to(check::post)),
    get("/api/v1/issuers", || web::to(registry::issuers)),
    get("/api/v1/resources", || web::to(registry::resources)),
    get("/api/v1/keys", || web::to(registry::keys)),
    get("/api/v1/clients", || web::to(clients::list)),
    get("/api/v1/clients/{id}", || web::to(clients::show)),
    post("/api/v1/clients/{id}/rotate-secret", || web::to(clients::rotate_secret)),
    post("/api/v1/clients/{id}/disable", || web::to(principals::disable)),
    post("/api/v1/clients/{id}/enable", || web::to(principals::enable)),
    delete("/api/v1/clients/{id}/keys/{jkt}", || web::to(principals::remove_key)),
    delete("/api/v1/sessions/{id}/texts", || web::to(sessions::erase_texts)),
    delete("/api/v1/tasks/{id}/agents", || web::to(principals::end_task)),
    // The vault: management by owners and administrators, and credentials for agents.
    get("/api/v1/providers", || web::to(vault::providers)),
    put("/api/v1/providers/{id}", || web::to(vault::declare)),
    get("/api/v1/connections", || web::to(vault::list)),
    post("/api/v1/connections", || web::to(vault::create)),
    get("/api/v1/connections/{id}", || web::to(vault::show)),
    post("/api/v1/connections/{id}/rotate", || web::to(vault::rotate)),
    post("/api/v1/connections/{id}/disconnect", || web::to(vault::disconnect)),
    post("/api/v1/connections/{id}/finish", || web::to(vault::finish)),
    post("/vault/connections/{id}/token", || web::to(vault::token)),
    // Not for HEAD: what a browser brings is taken once.
    get("/vault/callback/{provider}", || web::to(pending_authorization::callback)),
    operation(Methods::Proxied, PROXY, || web::to(vault_proxy::call)).matching("/vault/proxy/{rest:.*}"),
    // The audit log, filtered to the events that the caller may read, and its sinks.
    get("/api/v1/audit-logs", || web::to(audit_logs::list)),
    get("/api/v1/audit-logs/counts", || web::to(audit_logs::counts)),
    get("/api/v1/audit-logs/health", || web::to(audit_logs::health)),
    get("/api/v1/audit-logs/export", || web::to(audit_export::get)),
    get("/api/v1/audit-logs/stream", || web::to(audit_stream::get)),
    get("/api/v1/audit-logs/chains", || web::to(audit_logs::chains)),
    get("/api/v1/audit-logs/chains/{txn}", || web::to(audit_logs::chain)),
    get("/api/v1/audit-logs/chains/{txn}/evidence", || web::to(audit_logs::chain_evidence)),
    // After the names above, which `{id}` matches, too.
    get("/api/v1/audit-logs/{id}", || web::to(audit_logs::show)),
    get("/api/v1/audit-logs/{id}/evidence", || web::to(audit_logs::event_evidence)),
    get("/api/v1/agents/{id}/delegations/graph", || web::to(audit_logs::agent_graph)),
    get("/api/v1/sessions", || web::to(audit_sessions::list)),
    get("/api/v1/sessions/{id}", || web::to(audit_sessions::show)),
    get("/api/v1/sessions/{id}/trace", || web::to(audit_sessions::trace)),
    get("/api/v1/sessions/{id}/export", || web::to(audit_sessions::export)),
    get("/api/v1/audit-sinks", || web::to(audit_sinks::list)),
    get("/api/v1/audit-sinks/{id}", || web::to(audit_sinks::show)),
    put("/api/v1/audit-sinks/{id}", || web::to(audit_sinks::declare)),
    delete("/api/v1/audit-sinks/{id}", || web::to(audit_sinks::remove)),
    get("/api/v1/audit-sinks/{id}/dead-letters", || web::to(audit_sinks::dead_letters)),
    post("/api/v1/audit-sinks/{id}/dead-letters/replay", || web::to(audit_sinks::replay)),
    // The public transparency log. Entry tiles need a token that may read the whole log.
    read("/audit/checkpoint", || web::to(transparency::checkpoint)),
    post("/audit/checkpoint/cosignatures", || web::to(transparency::cosign)),
    read("/audit/keys", || web::to(transparency::keys)),
    read("/audit/proof/inclusion", || web::to(transparency::inclusion)),
    read("/audit/proof/consistency", || web::to(transparency::consistency)),
    // A tile number takes one segment or several (c2sp.org/tlog-tiles).
    read("/audit/tile/entries/{tile}", || web::to(transparency::entries)).matching("/audit/tile/entries/{tile:.*}"),
    read("/audit/tile/{level}/{tile}", || web::to(transparency::tile)).matching("/audit/tile/{tile:.*}"),
];

/// For operators: not below the issuer's path, and not for relying parties.
const FOR_OPERATORS: &[RouteOperation] = &[
    read("/health", || web::to(health::health)),
    read("/ready", || web::to(health::ready)),
    read("/metrics", || web::to(health::metrics)),
];

/// The issuer's path follows the well-known path (RFC 8414 §3.1), and OpenID Connect uses another name.
const METADATA: RouteOperation =
    read("/.well-known/oauth-authorization-server", || web::to(metadata::document));

/// The methods of an operation.
#[derive(Clone, Copy)]
enum Methods {
    /// GET and HEAD (RFC 9110 §9.3.2).
    Read,
    /// GET, and HEAD is refused.
    Get,
    Post,
    Put,
    Delete,
    /// The methods that the proxy forwards. TRACE would echo the credential; CONNECT would open a tunnel.
    Proxied,
}

impl Methods {
    /// Names of the methods. HEAD follows from GET.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Read | Self::Get => &["GET"],
            Self::Post => &["POST"],
            Self::Put => &["PUT"],
            Self::Delete => &["DELETE"],
            Self::Proxied => &["GET", "POST", "PUT", "PATCH", "DELETE"],
        }
    }

    fn guard(self, route: Route) -> Route {
        let reading = || guard::Any(guard::Get()).or(guard::Head());
        match self {
            Self::Read => route.guard(reading()),
            Self::Get => route.guard(guard::Get()),
            Self::Post => route.guard(guard::Post()),
            Self::Put => route.guard(guard::Put()),
            Self::Delete => route.guard(guard::Delete()),
            Self::Proxied => route
                .guard(reading().or(guard::Post()).or(guard::Put()).or(guard::Patch()).or(guard::Delete())),
        }
    }
}

/// The handler of a path for some methods.
struct RouteOperation {
    methods: Methods,
    /// The path as in `openapi.yaml`.
    path: &'static str,
    /// The path as actix matches it.
    pattern: &'static str,
    handler: fn() -> Route,
}

impl RouteOperation {
    const fn matching(self, pattern: &'static str) -> Self {
        Self { pattern, ..self }
    }

    fn route(&self) -> Route {
        self.methods.guard((self.handler)())
    }
}

const fn operation(methods: Methods, path: &'static str, handler: fn() -> Route) -> RouteOperation {
    RouteOperation { methods, path, pattern: path, handler }
}

const fn read(path: &'static str, handler: fn() -> Route) -> RouteOperation {
    operation(Methods::Read, path, handler)
}

const fn get(path: &'static str, handler: fn() -> Route) -> RouteOperation {
    operation(Methods::Get, path, handler)
}

const fn post(path: &'static str, handler: fn() -> Route) -> RouteOperation {
    operation(Methods::Post, path, handler)
}

const fn put(path: &'static str, handler: fn() -> Route) -> RouteOperation {
    operation(Methods::Put, path, handler)
}

const fn delete(path: &'static str, handler: fn() -> Route) -> RouteOperation {
    operation(Methods::Delete, path, handler)
}

/// Registers all operations at the paths of an issuer.
pub(super) fn register(config: &mut web::ServiceConfig, issuer: &str) {
    let base = issuer_path(issuer);
    add(config, BELOW_ISSUER, |pattern| format!("{base}{pattern}"));
    add(config, FOR_OPERATORS, str::to_owned);
    for path in well_known_paths(issuer) {
        config.service(web::resource(path).route(METADATA.route()));
    }
}

fn add(config: &mut web::ServiceConfig, operations: &[RouteOperation], at: impl Fn(&str) -> String) {
    // One resource for each path, which refuses other methods.
    for group in operations.chunk_by(|one, next| one.path == next.path) {
        let Some(first) = group.first() else { continue };
        let resource = web::resource(at(first.pattern));
        config.service(group.iter().fold(resource, |resource, one| resource.route(one.route())));
    }
}

fn all() -> impl DoubleEndedIterator<Item = &'static RouteOperation> {
    BELOW_ISSUER.iter().chain(FOR_OPERATORS).chain([&METADATA])
}

/// Path and method of each operation.
pub fn operations() -> impl Iterator<Item = (&'static str, &'static str)> {
    all().flat_map(|one| one.methods.names().iter().map(|method| (one.path, *method)))
}

/// The methods of a path of the table, for `Allow`.
pub(super) fn methods(path: &str) -> String {
    operations().filter(|(of, _)| *of == path).map(|(_, method)| method).collect::<Vec<_>>().join(", ")
}

/// The path of the table with the most segments that match the last segments of a request's path; a segment in braces
/// matches any segment. Labels of metrics come from the table: a client cannot create a label.
pub(super) fn find(issuer: &str, path: &str) -> Option<&'static str> {
    // Paths of the console can end like those of the API.
    let below = path.strip_prefix(issuer_path(issuer).as_str()).unwrap_or(path);
    if below == CONSOLE || below.strip_prefix(CONSOLE).is_some_and(|rest| rest.starts_with('/')) {
        return Some(CONSOLE);
    }
    let openid = "/.well-known/openid-configuration";
    if path.starts_with(METADATA.path) || path.starts_with(openid) || path.ends_with(openid) {
        return Some(METADATA.path);
    }
    // An upstream path follows, which can end like a route of this server.
    if path.contains("/vault/proxy/") {
        return Some(PROXY);
    }
    // A tile number takes one segment or several.
    if let Some((_, tile)) = path.split_once("/audit/tile/") {
        return Some(match tile.starts_with("entries/") {
            true => "/audit/tile/entries/{tile}",
            false => "/audit/tile/{level}/{tile}",
        });
    }
    let segments: Vec<&str> = path.rsplit('/').collect();
    let fits = |wanted: &[&str]| {
        wanted.len() <= segments.len()
            && wanted.iter().zip(&segments).all(|(wanted, segment)| {
                wanted == segment || (wanted.starts_with('{') && !segment.is_empty())
            })
    };
    BY_SEGMENTS.iter().find(|(wanted, _)| fits(wanted)).map(|(_, route)| *route)
}

/// The paths of the table, each with its segments from the last to the first. Those with the most segments come first: every
/// request searches here.
static BY_SEGMENTS: LazyLock<Vec<(Vec<&'static str>, &'static str)>> = LazyLock::new(|| {
    let segments = |route: &'static str| route.trim_start_matches('/').rsplit('/').collect::<Vec<_>>();
    let mut all: Vec<_> = all().map(|one| (segments(one.path), one.path)).collect();
    all.sort_by_key(|(segments, _)| Reverse(segments.len()));
    all
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_route_names_a_path() {
        assert_eq!(
            find("https://as.example/t1", "/t1/api/v1/tasks/7/agents"),
            Some("/api/v1/tasks/{id}/agents")
        );
        assert_eq!(find("https://as.example/t1", "/agents"), Some("/agents"));
        assert_eq!(find("https://as.example/t1", "/delegate/agents"), Some("/delegate/{id}"));
        assert_eq!(
            find("https://as.example/t1", "/delegate/7/ceremonies/8/deny"),
            Some("/delegate/{id}/ceremonies/{ceremony}/deny")
        );
        assert_eq!(
            find("https://as.example/t1", "/t1/vault/proxy/7/api.example.com/oauth/token"),
            Some(PROXY)
        );
        for path in [
            "/.well-known/oauth-authorization-server/t1",
            "/.well-known/openid-configuration",
            "/t1/.well-known/openid-configuration",
        ] {
            assert_eq!(find("https://as.example/t1", path), Some(METADATA.path), "{path}");
        }
        assert_eq!(
            find("https://as.example/t1", "/t1/audit/tile/0/x001/234.p/5"),
            Some("/audit/tile/{level}/{tile}")
        );
        assert_eq!(
            find("https://as.example/t1", "/audit/tile/entries/x001/234"),
            Some("/audit/tile/entries/{tile}")
        );
        for path in ["/t1/console", "/t1/console/agents", "/t1/console/delegations/7/renew"] {
            assert_eq!(find("https://as.example/t1", path), Some(CONSOLE), "{path}");
        }
        assert_eq!(find("https://as.example/t1", "/t1/consoles"), None);
        let client = "/t1/api/v1/clients/console/disable";
        assert_eq!(find("https://as.example/t1", client), Some("/api/v1/clients/{id}/disable"));
        assert_eq!(
            (find("https://as.example/t1", "/delegate/"), find("https://as.example/t1", "/nothing")),
            (None, None)
        );
        for name in ["stream", "chains", "export"] {
            let path = format!("/api/v1/audit-logs/{name}");
            assert_eq!(find("https://as.example/t1", &path), Some(path.as_str()), "not {{id}}");
        }
    }

    #[test]
    fn operations_of_one_path_are_next_to_each_other() {
        let mut paths: Vec<&str> = operations().map(|(path, _)| path).collect();
        paths.dedup();
        let distinct: std::collections::BTreeSet<&str> = paths.iter().copied().collect();
        assert_eq!(distinct.len(), paths.len());
    }
}
