//! `/api/v1`: principals, clients and tasks.

use actix_web::web::{Data, Path, Payload, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use tracing_actix_web::RequestId;

use super::desk::{Stopped, answer, known};
use crate::app::App;
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::flows::desk::{Desk, Done};
use crate::flows::principals::{self, Whom};

type Answer = Result<Done, Stopped>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cutoff {
    iss: String,
    sub: String,
    reason: String,
}

pub(super) async fn cutoff(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    app: Data<App>,
) -> HttpResponse {
    let cutoff = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        let Cutoff { iss, sub, reason } = known.read()?;
        let who = Principal::new(iss, sub);
        Ok(principals::cutoff(&Desk::of(&app), &known.call, &who, &reason).await?)
    };
    answer(&app, cutoff().await)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ReachQuery {
    iss: Option<String>,
    sub: Option<String>,
    client_id: Option<String>,
    delegation: Option<String>,
}

impl ReachQuery {
    fn read(self) -> Result<Whom, Refusal> {
        let whom = match (self.iss, self.sub, self.client_id, self.delegation) {
            (Some(iss), Some(sub), None, None) => Whom::Principal(Principal::new(iss, sub)),
            (None, None, Some(id), None) => Whom::Client(id),
            (None, None, None, Some(id)) => Whom::Delegation(id),
            _ => return Err(Refusal::Malformed("The query names iss and sub, or client_id, or delegation")),
        };
        let texts = match &whom {
            Whom::Principal(who) => vec![&who.iss, &who.sub],
            Whom::Client(id) | Whom::Delegation(id) => vec![id],
        };
        if texts.into_iter().any(|text| text.contains('\0')) {
            return Err(Refusal::Malformed("The query has a character that no name has"));
        }
        Ok(whom)
    }
}

pub(super) async fn reach(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    app: Data<App>,
) -> HttpResponse {
    let reach = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        let query = Query::<ReachQuery>::from_query(request.query_string())
            .map_err(|_| Refusal::Malformed("The query is not what this endpoint reads"))?;
        let whom = query.into_inner().read()?;
        Ok(principals::foresee(&Desk::of(&app), &known.call, &whom).await?)
    };
    answer(&app, reach().await)
}

pub(super) async fn disable(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    (app, id): (Data<App>, Path<String>),
) -> HttpResponse {
    let disable = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        Ok(principals::disable(&Desk::of(&app), &known.call, &id).await?)
    };
    answer(&app, disable().await)
}

pub(super) async fn enable(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    (app, id): (Data<App>, Path<String>),
) -> HttpResponse {
    let enable = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        Ok(principals::enable(&Desk::of(&app), &known.call, &id).await?)
    };
    answer(&app, enable().await)
}

pub(super) async fn remove_key(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    (app, path): (Data<App>, Path<(String, String)>),
) -> HttpResponse {
    let (id, jkt) = path.into_inner();
    let remove = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        Ok(principals::remove_key(&Desk::of(&app), &known.call, (&id, &jkt)).await?)
    };
    answer(&app, remove().await)
}

pub(super) async fn end_task(
    request: HttpRequest,
    request_id: RequestId,
    payload: Payload,
    (app, id): (Data<App>, Path<String>),
) -> HttpResponse {
    let end = async || -> Answer {
        let known = known(&app, &request, request_id, payload).await?;
        if id.contains('\0') {
            return Err(Refusal::NotFound.into());
        }
        Ok(principals::end_task(&Desk::of(&app), &known.call, &id).await?)
    };
    answer(&app, end().await)
}
