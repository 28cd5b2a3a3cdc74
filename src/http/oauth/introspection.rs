//! Introspection (RFC 7662, RFC 9701), for relying parties.

use actix_web::http::header::{ACCEPT, HeaderMap, VARY};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use crate::app::App;
use crate::domain::refusal::{Error, Refusal};
use crate::http::credentials;
use crate::http::oauth::response;
use crate::http::params::form;
use crate::services::client_request::OauthEndpoint;
use crate::services::introspect::{self, IntrospectionAnswer};
use actchain_protocol::introspection::{JWT_MEDIA_TYPE, preferred};

pub(in crate::http) async fn post(request: HttpRequest, payload: Payload, app: Data<App>) -> HttpResponse {
    let introspect = async || -> Result<IntrospectionAnswer, Error> {
        let params = form(&request, payload, app.config.limits.max_body_bytes).await?;
        let now = app.clock.now();
        let from = credentials::client_request(OauthEndpoint::Introspection, &request, &params)?;
        let token = params.get("token").ok_or(Refusal::Malformed("token is missing"))?;
        let form = preferred(accepted(request.headers()).as_deref());
        introspect::introspect(&app, &from, token, form, now).await
    };
    let response = match introspect().await {
        Ok(IntrospectionAnswer::Json(body)) => HttpResponse::Ok().insert_header((VARY, "Accept")).json(body),
        Ok(IntrospectionAnswer::Jwt(jwt)) => {
            HttpResponse::Ok().insert_header((VARY, "Accept")).content_type(JWT_MEDIA_TYPE).body(jwt)
        }
        Err(error) => response::stopped(&app, &error),
    };
    response::uncached(response, app.next_nonce())
}

fn accepted(headers: &HeaderMap) -> Option<String> {
    let fields: Vec<&str> = headers.get_all(ACCEPT).filter_map(|field| field.to_str().ok()).collect();
    (!fields.is_empty()).then(|| fields.join(","))
}
