//! `/api/v1/check`: whether an exchange would be granted, without effect.

use actix_web::HttpResponse;
use serde::Deserialize;
use serde_json::Value;

use crate::domain::issuer::parse_token_type;
use crate::domain::refusal::Refusal;
use crate::http::management::request::{ManagementRequest, ok, serve};
use crate::services::token_exchange::{ExchangeCheck, PresentedSubject, Question, check};
use actchain_protocol::authorization_details::Details;
use actchain_protocol::scope;
use actchain_protocol::token_exchange::{RequestedAccess, TokenType};

/// A hypothetical exchange.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckBody {
    subject_token: String,
    /// `access_token`, `jwt` or `id_token`.
    subject_token_type: Option<String>,
    /// The issuer of an access token that names none.
    subject_issuer: Option<String>,
    client_id: String,
    /// Thumbprint of the key that signs the DPoP proof.
    jkt: Option<String>,
    scope: Option<String>,
    audiences: Option<Vec<String>>,
    authorization_details: Option<Value>,
    capability_ceiling: Option<String>,
    delegation_id: Option<String>,
}

impl CheckBody {
    fn question(self) -> Result<Question, Refusal> {
        let token_type = self.subject_token_type.map(|name| match name.as_str() {
            "access_token" => Ok(TokenType::AccessToken),
            other => parse_token_type(other)
                .ok_or(Refusal::Malformed("subject_token_type is access_token, jwt or id_token")),
        });
        let scopes = self.scope.map(|text| scope::parse(&text).ok_or(Refusal::ScopeMalformed));
        let details = self
            .authorization_details
            .map(|value| Details::from_value(&value).ok_or(Refusal::AuthorizationDetailsMalformed));
        Ok(Question {
            subject: PresentedSubject::Token {
                token: self.subject_token,
                token_type: token_type.transpose()?,
                issuer: self.subject_issuer,
            },
            client_id: self.client_id,
            jkt: self.jkt,
            wanted: RequestedAccess {
                scopes: scopes.transpose()?,
                audiences: self.audiences.map(|names| names.into_iter().collect()),
                details: details.transpose()?,
                capability: self.capability_ceiling,
            },
            delegation_id: self.delegation_id,
        })
    }
}

pub(in crate::http) async fn post(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        known.context.caller.require_administrator()?;
        let question = known.read::<CheckBody>()?.question()?;
        let explained = check(&known.context, known.app, &question).await?;
        Ok(ok(&ExchangeCheck::from(explained)))
    })
    .await
}
