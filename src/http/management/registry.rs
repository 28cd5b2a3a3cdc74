//! `/api/v1/issuers`, `/api/v1/resources` and `/api/v1/keys`: lists of what is registered, and of the signing keys.

use actix_web::HttpResponse;
use serde::Deserialize;

use crate::domain::key::KeyPurpose;
use crate::http::management::request::{ManagementRequest, ok, serve};
use crate::services::page::PageRequest;
use crate::services::{registrations, signing_keys};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PrefixQuery {
    prefix: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KeyQuery {
    purpose: Option<KeyPurpose>,
    cursor: Option<String>,
    limit: Option<u32>,
}

pub(in crate::http) async fn issuers(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let PrefixQuery { prefix, cursor, limit } = known.query()?;
        let page = PageRequest { cursor, limit };
        Ok(ok(&registrations::list_issuers(&known.context, prefix.as_deref(), &page).await?))
    })
    .await
}

pub(in crate::http) async fn resources(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let PrefixQuery { prefix, cursor, limit } = known.query()?;
        let page = PageRequest { cursor, limit };
        Ok(ok(&registrations::list_resources(&known.context, prefix.as_deref(), &page).await?))
    })
    .await
}

pub(in crate::http) async fn keys(incoming: ManagementRequest) -> HttpResponse {
    serve(incoming, async |known| {
        let KeyQuery { purpose, cursor, limit } = known.query()?;
        let page = PageRequest { cursor, limit };
        Ok(ok(&signing_keys::list(&known.context, purpose, &page).await?))
    })
    .await
}
