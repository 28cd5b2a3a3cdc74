//! What relying parties and clients read about this server: metadata (RFC 8414) and keys (RFC 7517).

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpResponse, web};

use crate::app::App;
use actchain_protocol::metadata::{self, MetadataInput};

/// Much shorter than `keys.prepublish`, so that relying parties fetch a key before it signs.
const CACHE: &str = "public, max-age=300";

pub(in crate::http) async fn document(app: web::Data<App>) -> HttpResponse {
    let registry = app.registry();
    let collect = |pick: fn(&crate::domain::resource::Resource) -> &std::collections::BTreeSet<String>| {
        let names: std::collections::BTreeSet<&String> = registry.resources.values().flat_map(pick).collect();
        names.into_iter().cloned().collect::<Vec<_>>()
    };
    let facts = MetadataInput {
        scopes: collect(|resource| &resource.scopes),
        detail_types: collect(|resource| &resource.detail_types),
        signing_alg: app.keyring().active.alg(),
    };
    HttpResponse::Ok().insert_header((CACHE_CONTROL, CACHE)).json(metadata::document(&app.issuer, &facts))
}

pub(in crate::http) async fn jwks(app: web::Data<App>) -> HttpResponse {
    let keyring = app.keyring();
    HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, CACHE))
        .content_type("application/jwk-set+json")
        .body(keyring.jwks.to_string())
}
