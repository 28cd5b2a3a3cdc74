//! Style sheet and script of the console. Their names contain a digest of their content, so that browsers keep them.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use actix_web::web::Path;

use crate::http::problem;
use actchain_protocol::digest::{hex, sha256};

/// A file of the console.
pub(super) struct Asset {
    /// The file name with its digest.
    pub(super) name: String,
    content: &'static str,
    media_type: &'static str,
}

impl Asset {
    fn new(stem: &str, extension: &str, content: &'static str, media_type: &'static str) -> Self {
        let digest: String = hex(&sha256(&[content.as_bytes()])).chars().take(16).collect();
        Self { name: format!("{stem}.{digest}.{extension}"), content, media_type }
    }
}

pub(super) static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("console", "css", include_str!("assets/console.css"), "text/css; charset=utf-8")
});
pub(super) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("console", "js", include_str!("assets/console.js"), "text/javascript; charset=utf-8")
});

/// `GET /console/assets/{name}`
pub(super) async fn get(name: Path<String>) -> HttpResponse {
    let found = [&*STYLE, &*SCRIPT].into_iter().find(|asset| asset.name == *name);
    match found {
        None => problem::of_status(actix_web::http::StatusCode::NOT_FOUND),
        Some(asset) => HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, asset.media_type))
            .insert_header((CACHE_CONTROL, "public, max-age=31536000, immutable"))
            .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .body(asset.content),
    }
}
