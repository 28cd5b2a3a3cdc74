//! The console: pages for people, below the issuer's path. Every page, and who may see it, is in [`ROUTES`]. Pages call
//! the services that the management API calls; only POST changes anything.

mod access;
mod agent_operations;
mod agent_page;
mod agents;
mod approvals;
mod assets;
mod callback;
mod chain_page;
mod chain_tree;
mod chain_words;
mod chains;
mod check;
mod chosen;
mod connect;
mod connections;
mod cookies;
mod cut;
mod decide;
mod delegation_facts;
mod delegation_item;
mod delegation_tree;
mod delegations;
mod delegations_query;
mod enter;
mod error_page;
mod event_hours;
mod event_page;
mod event_rows;
mod events;
mod evidence;
mod find;
mod form_token;
mod frame;
mod give_again;
mod graph;
mod guard;
mod help;
mod links;
mod list_query;
mod live;
mod live_parts;
mod log;
mod log_badge;
mod matter;
mod me;
mod overview;
mod proof_check;
mod proposals;
mod registry;
mod registry_entry;
mod request_page;
mod session_page;
mod session_words;
mod sessions;
mod set_filter;
mod set_up;
mod settings;
mod sign_in;
mod sign_out;
mod sinks;
mod standing_grant_form;
mod standing_grant_page;
mod standing_grants;
mod unknown_page;
mod who;
mod windows;
mod words;

use actix_web::guard::{GuardContext, fn_guard};
use actix_web::{Route, web};

use self::access::{AccessTable, ConsoleMethod, RouteAccess};
pub(super) use self::guard::open_session;
use crate::app::App;
use crate::domain::console::ConsoleRole::{self, Admin, Auditor, Operator, User};
use crate::services::console::is_on;
use actchain_protocol::metadata::issuer_path;

const DECIDERS: &[ConsoleRole] = &[User, Admin, Operator];
const ADMINISTRATORS: &[ConsoleRole] = &[Admin, Operator];
const READERS: &[ConsoleRole] = &[Auditor, Admin, Operator];
const PEOPLE: &[ConsoleRole] = &[User, Auditor, Admin, Operator];

/// A page, or a form's target that changes something.
struct ConsoleRoute {
    method: ConsoleMethod,
    /// The path below the issuer.
    path: &'static str,
    access: RouteAccess,
    handler: fn() -> Route,
}

const fn page(path: &'static str, roles: &'static [ConsoleRole], handler: fn() -> Route) -> ConsoleRoute {
    ConsoleRoute { method: ConsoleMethod::Get, path, access: RouteAccess::Roles(roles), handler }
}

const fn act(path: &'static str, roles: &'static [ConsoleRole], handler: fn() -> Route) -> ConsoleRoute {
    ConsoleRoute { method: ConsoleMethod::Post, path, access: RouteAccess::Roles(roles), handler }
}

const fn public(method: ConsoleMethod, path: &'static str, handler: fn() -> Route) -> ConsoleRoute {
    ConsoleRoute { method, path, access: RouteAccess::Public, handler }
}

#[rustfmt::skip]
const ROUTES: &[ConsoleRoute] = &[
    public(ConsoleMethod::Get, "/console/assets/{name}", || web::to(assets::get)),
    public(ConsoleMethod::Get, "/console/sign-in", || web::to(sign_in::show)),
    public(ConsoleMethod::Get, "/console/sign-in/{issuer}", || web::to(sign_in::begin)),
    public(ConsoleMethod::Get, "/console/callback/{issuer}", || web::to(callback::finish)),
    public(ConsoleMethod::Post, "/console/backchannel-logout/{issuer}", || web::to(sign_out::log_out)),
    public(ConsoleMethod::Get, "/console/signed-out/{issuer}", || web::to(sign_out::show)),
    public(ConsoleMethod::Get, "/admin/delegation-chains", || web::to(chains::redirect)),
    public(ConsoleMethod::Get, "/console/enter/{secret}", || web::to(enter::show)),
    public(ConsoleMethod::Post, "/console/enter/{secret}", || web::to(enter::enter)),
    act("/console/sign-out", PEOPLE, || web::to(sign_out::sign_out)),
    page("/console", PEOPLE, || web::to(overview::show)),
    act("/console/find", PEOPLE, || web::to(find::jump)),
    page("/console/help", PEOPLE, || web::to(help::show)),
    page("/console/live", PEOPLE, || web::to(live::get)),
    page("/console/approvals", DECIDERS, || web::to(approvals::list)),
    act("/console/approvals/deny", DECIDERS, || web::to(approvals::deny_several)),
    page("/console/approvals/{id}", DECIDERS, || web::to(decide::show)),
    act("/console/approvals/{id}/approve", DECIDERS, || web::to(decide::approve)),
    act("/console/approvals/{id}/deny", DECIDERS, || web::to(decide::deny)),
    page("/console/approvals/{id}/uses/{ceremony}", DECIDERS, || web::to(decide::show_use)),
    act("/console/approvals/{id}/uses/{ceremony}/approve", DECIDERS, || web::to(decide::approve_use)),
    act("/console/approvals/{id}/uses/{ceremony}/deny", DECIDERS, || web::to(decide::deny_use)),
    page("/console/delegations", DECIDERS, || web::to(delegations::list)),
    page("/console/delegations/{id}", DECIDERS, || web::to(delegation_item::show)),
    act("/console/delegations/{id}/renew", DECIDERS, || web::to(delegation_item::renew)),
    page("/console/delegations/{id}/again", DECIDERS, || web::to(give_again::show)),
    act("/console/delegations/{id}/again", DECIDERS, || web::to(give_again::give)),
    page("/console/delegations/{id}/cut", DECIDERS, || web::to(cut::show)),
    act("/console/delegations/{id}/cut", DECIDERS, || web::to(cut::cut)),
    page("/console/chains", PEOPLE, || web::to(chains::list)),
    page("/console/chains/count", PEOPLE, || web::to(chains::count)),
    page("/console/chains/{txn}", PEOPLE, || web::to(chain_page::show)),
    page("/console/chains/{txn}/export", PEOPLE, || web::to(chain_page::export)),
    page("/console/chains/{txn}/evidence", PEOPLE, || web::to(evidence::of_chain)),
    page("/console/sessions", PEOPLE, || web::to(sessions::list)),
    page("/console/sessions/{id}", PEOPLE, || web::to(session_page::show)),
    page("/console/sessions/{id}/export", PEOPLE, || web::to(session_page::export)),
    page("/console/sessions/{id}/erase-texts", DECIDERS, || web::to(session_page::show_erasure)),
    act("/console/sessions/{id}/erase-texts", DECIDERS, || web::to(session_page::erase_texts)),
    page("/console/events", PEOPLE, || web::to(events::list)),
    page("/console/events/export", PEOPLE, || web::to(events::export)),
    page("/console/events/{id}", PEOPLE, || web::to(event_page::show)),
    page("/console/events/{id}/proof", PEOPLE, || web::to(event_page::proof)),
    page("/console/events/{id}/document", PEOPLE, || web::to(event_page::document)),
    page("/console/events/{id}/evidence", PEOPLE, || web::to(evidence::of_event)),
    page("/console/log", READERS, || web::to(log::show)),
    act("/console/log/compare", READERS, || web::to(log::compare)),
    page("/console/sinks", READERS, || web::to(sinks::list)),
    page("/console/sinks/{id}", READERS, || web::to(sinks::show)),
    act("/console/sinks/{id}/enable", ADMINISTRATORS, || web::to(sinks::enable)),
    act("/console/sinks/{id}/disable", ADMINISTRATORS, || web::to(sinks::disable)),
    act("/console/sinks/{id}/replay", ADMINISTRATORS, || web::to(sinks::replay)),
    page("/console/sinks/{id}/remove", ADMINISTRATORS, || web::to(sinks::show_removal)),
    act("/console/sinks/{id}/remove", ADMINISTRATORS, || web::to(sinks::remove)),
    page("/console/agents", DECIDERS, || web::to(agents::list)),
    page("/console/agents/new", ADMINISTRATORS, || web::to(set_up::show)),
    act("/console/agents/new", ADMINISTRATORS, || web::to(set_up::plan)),
    page("/console/agents/{id}", PEOPLE, || web::to(agent_page::show)),
    page("/console/agents/{id}/disable", ADMINISTRATORS, || web::to(agent_operations::show_disable)),
    act("/console/agents/{id}/disable", ADMINISTRATORS, || web::to(agent_operations::disable)),
    act("/console/agents/{id}/enable", ADMINISTRATORS, || web::to(agent_operations::enable)),
    page("/console/agents/{id}/revoke-all", ADMINISTRATORS, || web::to(agent_operations::show_revoke_all)),
    act("/console/agents/{id}/revoke-all", ADMINISTRATORS, || web::to(agent_operations::revoke_all)),
    page("/console/agents/{id}/end-task", ADMINISTRATORS, || web::to(agent_operations::show_end_task)),
    act("/console/agents/{id}/end-task", ADMINISTRATORS, || web::to(agent_operations::end_task)),
    act("/console/agents/{id}/rotate-secret", ADMINISTRATORS, || web::to(agent_operations::rotate_secret)),
    page("/console/agents/{id}/keys/{jkt}", ADMINISTRATORS, || web::to(agent_operations::show_key)),
    act("/console/agents/{id}/keys/{jkt}/remove", ADMINISTRATORS, || web::to(agent_operations::remove_key)),
    page("/console/check", ADMINISTRATORS, || web::to(check::show)),
    act("/console/check", ADMINISTRATORS, || web::to(check::check)),
    page("/console/registry/{kind}", ADMINISTRATORS, || web::to(registry::show)),
    page("/console/registry/{kind}/{id}", ADMINISTRATORS, || web::to(registry_entry::show)),
    page("/console/settings", ADMINISTRATORS, || web::to(settings::show)),
    act("/console/settings/doctor", ADMINISTRATORS, || web::to(settings::examine)),
    page("/console/standing-grants", DECIDERS, || web::to(standing_grants::list)),
    page("/console/standing-grants/new", DECIDERS, || web::to(standing_grant_form::new)),
    act("/console/standing-grants/new", DECIDERS, || web::to(standing_grant_form::create)),
    page("/console/standing-grants/{id}", DECIDERS, || web::to(standing_grant_page::show)),
    act("/console/standing-grants/{id}/confirm", DECIDERS, || web::to(standing_grant_page::confirm_keys)),
    act("/console/standing-grants/{id}/renew", DECIDERS, || web::to(standing_grant_page::renew)),
    page("/console/standing-grants/{id}/revoke", DECIDERS, || web::to(standing_grant_page::show_revocation)),
    act("/console/standing-grants/{id}/revoke", DECIDERS, || web::to(standing_grant_page::revoke)),
    page("/console/connections", DECIDERS, || web::to(connections::list)),
    page("/console/connections/new", DECIDERS, || web::to(connect::new)),
    act("/console/connections/new", DECIDERS, || web::to(connect::create)),
    page("/console/connections/{id}", DECIDERS, || web::to(connections::show)),
    page("/console/connections/{id}/finish", DECIDERS, || web::to(connect::finish_page)),
    act("/console/connections/{id}/finish", DECIDERS, || web::to(connect::finish)),
    page("/console/connections/{id}/disconnect", DECIDERS, || web::to(connections::disconnect_page)),
    act("/console/connections/{id}/disconnect", DECIDERS, || web::to(connections::disconnect)),
    page("/console/me", PEOPLE, || web::to(me::show)),
    act("/console/me/sessions/{id}/end", PEOPLE, || web::to(me::end_session)),
    act("/console/me/sign-out-everywhere", PEOPLE, || web::to(sign_out::everywhere)),
    act("/console/me/preferences", PEOPLE, || web::to(me::prefer)),
];

/// Registers the console at the path of the issuer. While this server has no console, its paths do not exist.
pub(super) fn register(config: &mut web::ServiceConfig, app: &web::Data<App>) {
    let base = issuer_path(&app.issuer);
    config.app_data(AccessTable(access));
    let resource = |path: &str| {
        let app = app.clone();
        let is_on = move |_: &GuardContext<'_>| is_on(&app.config, &app.issuer, &app.registry());
        web::resource(format!("{base}{path}")).guard(fn_guard(is_on))
    };
    for group in ROUTES.chunk_by(|one, next| one.path == next.path) {
        let Some(first) = group.first() else { continue };
        let resource = resource(first.path);
        config.service(group.iter().fold(resource, |resource, one| {
            let route = (one.handler)();
            resource.route(match one.method {
                ConsoleMethod::Get => route.guard(actix_web::guard::Get()),
                ConsoleMethod::Post => route.guard(actix_web::guard::Post()),
            })
        }));
    }
    // A link with a typing error leads to a page, too.
    let unknown = resource("/console/{unknown:.*}").guard(actix_web::guard::Get());
    config.service(unknown.to(unknown_page::show));
}

/// Method, path and roles of each route; no roles for a route without a session.
pub fn console_routes() -> impl Iterator<Item = (&'static str, &'static str, Option<&'static [ConsoleRole]>)>
{
    ROUTES.iter().map(|one| {
        let method = if one.method == ConsoleMethod::Get { "GET" } else { "POST" };
        let roles = match one.access {
            RouteAccess::Public => None,
            RouteAccess::Roles(roles) => Some(roles),
        };
        (method, one.path, roles)
    })
}

/// The methods of a path, for `Allow`.
pub(super) fn methods(issuer: &str, path: &str) -> String {
    let below = path.strip_prefix(issuer_path(issuer).as_str()).unwrap_or(path);
    let has = |method: ConsoleMethod| access(method, below) != RouteAccess::Roles(&[]);
    let methods = [(ConsoleMethod::Get, "GET"), (ConsoleMethod::Post, "POST")];
    methods
        .into_iter()
        .filter(|(method, _)| has(*method))
        .map(|(_, name)| name)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The access to a path below the issuer: a segment in braces is any segment.
fn access(method: ConsoleMethod, path: &str) -> RouteAccess {
    let fits = |pattern: &str| {
        let mut segments = path.split('/');
        let all = pattern.split('/').all(|wanted| {
            segments.next().is_some_and(|own| wanted == own || (wanted.starts_with('{') && !own.is_empty()))
        });
        all && segments.next().is_none()
    };
    let found = ROUTES.iter().find(|one| one.method == method && fits(one.path));
    found.map_or(RouteAccess::Roles(&[]), |one| one.access)
}
