//! Paths below `/console` that no page has, as after a typing error.

use actix_web::HttpResponse;

use super::guard::{Incoming, serve};
use crate::domain::refusal::Refusal;

pub(super) async fn show(incoming: Incoming) -> HttpResponse {
    serve(incoming, async |_| Err(Refusal::NotFound.into())).await
}
