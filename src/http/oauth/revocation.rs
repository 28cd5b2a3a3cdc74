//! Revocation of a token by its client (RFC 7009).

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use crate::app::App;
use crate::domain::refusal::{Error, Refusal};
use crate::http::credentials;
use crate::http::oauth::response;
use crate::http::params::form;
use crate::services::client_request::OauthEndpoint;
use crate::services::revoke_token;

pub(in crate::http) async fn post(request: HttpRequest, payload: Payload, app: Data<App>) -> HttpResponse {
    let revoke = async || -> Result<(), Error> {
        let params = form(&request, payload, app.config.limits.max_body_bytes).await?;
        let now = app.clock.now();
        let from = credentials::client_request(OauthEndpoint::Revocation, &request, &params)?;
        let token = params.get("token").ok_or(Refusal::Malformed("token is missing"))?;
        revoke_token::revoke(&app, &from, token, now).await
    };
    let response = match revoke().await {
        Ok(()) => HttpResponse::Ok().finish(),
        Err(error) => response::stopped(&app, &error),
    };
    response::uncached(response, app.next_nonce())
}
