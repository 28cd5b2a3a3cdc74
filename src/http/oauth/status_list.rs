//! Status lists (draft-ietf-oauth-status-list), public.

use actix_web::http::header::{CACHE_CONTROL, ETAG, EntityTag, Header as _, IfNoneMatch};
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use crate::app::App;
use crate::domain::refusal::{Error, Refusal};
use crate::http::problem;
use crate::services::status_lists;
use actchain_protocol::status_list;

#[derive(Serialize)]
struct StatusListUris {
    status_lists: Vec<String>,
}

/// All lists that unexpired tokens refer to (draft-ietf-oauth-status-list §9).
pub(in crate::http) async fn list(app: Data<App>) -> HttpResponse {
    match status_lists::live(&app, app.clock.now()).await {
        Ok(status_lists) => HttpResponse::Ok()
            .insert_header((CACHE_CONTROL, max_age(&app)))
            .json(StatusListUris { status_lists }),
        Err(fault) => problem::of(&fault.into(), None),
    }
}

/// One status list (draft-ietf-oauth-status-list §8.1). Answers 304 to a client whose `If-None-Match` is current.
pub(in crate::http) async fn show(request: HttpRequest, app: Data<App>, list: Path<String>) -> HttpResponse {
    if request.query_string().split('&').any(|pair| pair == "time" || pair.starts_with("time=")) {
        return problem::of(&Refusal::NotSupported.into(), None);
    }
    // Only the canonical spelling of a number, so that each list has one URL.
    let number = list.parse::<u64>().ok().filter(|number| number.to_string() == *list);
    let signed = match number {
        None => Err(Error::Refused(Refusal::NotFound)),
        Some(number) => status_lists::signed(&app, number, app.clock.now()).await,
    };
    let signed = match signed {
        Ok(signed) => signed,
        Err(error) => return problem::of(&error, None),
    };
    let etag = EntityTag::new_strong(signed.etag.clone());
    let is_current = match IfNoneMatch::parse(&request) {
        Ok(IfNoneMatch::Any) => true,
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|tag| tag.weak_eq(&etag)),
        Err(_) => false,
    };
    let mut response = if is_current { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header((ETAG, etag.to_string())).insert_header((CACHE_CONTROL, max_age(&app)));
    if is_current {
        response.finish()
    } else {
        response.content_type(status_list::MEDIA_TYPE).body(signed.token.clone())
    }
}

fn max_age(app: &App) -> String {
    format!("public, max-age={}", app.config.status.ttl)
}
