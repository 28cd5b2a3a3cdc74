//! Style sheet and scripts of the console. Their names contain a digest of their content, so that browsers keep them.

use std::io::Write as _;
use std::sync::LazyLock;

use actix_web::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::web::Path;
use actix_web::{HttpRequest, HttpResponse};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::http::problem;
use actchain_protocol::digest::{hex, sha256};

/// A file of the console.
pub(super) struct Asset {
    /// The file name with its digest.
    pub(super) name: String,
    content: String,
    /// The content in gzip; `None` where it could not be compressed.
    compressed: Option<Vec<u8>>,
    media_type: &'static str,
}

impl Asset {
    fn new(stem: &str, extension: &str, parts: &[&str], media_type: &'static str) -> Self {
        let content = parts.join("\n");
        let digest: String = hex(&sha256(&[content.as_bytes()])).chars().take(16).collect();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let compressed = encoder.write_all(content.as_bytes()).and_then(|()| encoder.finish()).ok();
        Self { name: format!("{stem}.{digest}.{extension}"), content, compressed, media_type }
    }
}

/// A file of another project, unchanged.
struct VendoredFile {
    content: &'static str,
    /// SHA-256 of the file in the npm package.
    sha256: &'static str,
}

impl VendoredFile {
    /// The content; empty if it is not that of the package.
    fn verified(&self) -> &'static str {
        let is_original = hex(&sha256(&[self.content.as_bytes()])) == self.sha256;
        if is_original { self.content } else { "" }
    }
}

/// `dist/htmx.min.js` of htmx.org 4.0.1 (0BSD): swaps parts of pages.
const HTMX: VendoredFile = VendoredFile {
    content: include_str!("assets/vendor/htmx-4.0.1.min.js"),
    sha256: "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130",
};
/// `dist/ext/hx-sse.min.js` of htmx.org 4.0.1 (0BSD): follows `/console/live`.
const HTMX_SSE: VendoredFile = VendoredFile {
    content: include_str!("assets/vendor/hx-sse-4.0.1.min.js"),
    sha256: "18ef2761356ec1fe0bb6d92612315b37517a7c1e9856b661c5ae81fef239d103",
};

pub(super) static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("console", "css", &[include_str!("assets/console.css")], "text/css; charset=utf-8")
});
/// One file, so that a first visit is three requests. Our part is last: it uses the others.
pub(super) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    let parts = [HTMX.verified(), HTMX_SSE.verified(), include_str!("assets/console.js")];
    Asset::new("console", "js", &parts, "text/javascript; charset=utf-8")
});
/// Checks the proof of an event. A module of its own: only the page of that proof loads it.
pub(super) static CHECK_PROOF: LazyLock<Asset> = LazyLock::new(|| {
    let parts = [include_str!("assets/check-proof.js")];
    Asset::new("check-proof", "js", &parts, "text/javascript; charset=utf-8")
});

fn all() -> [&'static Asset; 3] {
    [&*STYLE, &*SCRIPT, &*CHECK_PROOF]
}

/// `GET /console/assets/{name}`
pub(super) async fn get(name: Path<String>, request: HttpRequest) -> HttpResponse {
    let found = all().into_iter().find(|asset| asset.name == *name);
    let Some(asset) = found else { return problem::of_status(actix_web::http::StatusCode::NOT_FOUND) };
    let mut response = HttpResponse::Ok();
    response
        .insert_header((CONTENT_TYPE, asset.media_type))
        .insert_header((CACHE_CONTROL, "public, max-age=31536000, immutable"))
        .insert_header((VARY, "Accept-Encoding"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"));
    match &asset.compressed {
        Some(compressed) if accepts_gzip(&request) => {
            response.insert_header((CONTENT_ENCODING, "gzip")).body(compressed.clone())
        }
        _ => response.body(asset.content.clone()),
    }
}

/// Whether a client accepts gzip (RFC 9110 §12.5.3). A weight of 0 refuses it.
fn accepts_gzip(request: &HttpRequest) -> bool {
    let fields = request.headers().get_all(ACCEPT_ENCODING).filter_map(|field| field.to_str().ok());
    fields.flat_map(|field| field.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let is_refused = |weight: &str| {
            let value = weight.strip_prefix("q=").or_else(|| weight.strip_prefix("Q="));
            value.is_some_and(|value| value.parse().is_ok_and(|value: f32| value <= 0.0))
        };
        is_gzip && !parts.any(is_refused)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn vendored_files_are_those_of_their_package() {
        for file in [HTMX, HTMX_SSE] {
            assert!(!file.verified().is_empty());
            assert_eq!(
                VendoredFile { content: "other", ..file }.verified(),
                "",
                "a changed file is not sent"
            );
        }
    }

    #[test]
    fn all_assets_are_within_their_budget() {
        let plain: usize = all().iter().map(|asset| asset.content.len()).sum();
        let compressed: usize = all().iter().map(|asset| asset.compressed.as_ref().unwrap().len()).sum();
        assert!(plain <= 96 * 1024, "{plain} bytes");
        assert!(compressed <= 32 * 1024, "{compressed} bytes in gzip");
        let own = include_str!("assets/console.js").len();
        assert!(own <= 12 * 1024, "console.js has {own} bytes");
        let checking = CHECK_PROOF.content.len();
        assert!(checking <= 8 * 1024, "check-proof.js has {checking} bytes");
    }

    #[test]
    fn gzip_is_sent_only_where_it_is_accepted() {
        for (field, expected) in [
            ("gzip, deflate, br", true),
            ("br, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("br", false),
            ("", false),
        ] {
            let request = TestRequest::get().insert_header((ACCEPT_ENCODING, field)).to_http_request();
            assert_eq!(accepts_gzip(&request), expected, "{field}");
        }
    }
}
