//! The examination of a running server on request: one at a time, and bounded in time.

use std::time::Duration;

use tokio::time::timeout;

use super::finding::DoctorFinding;
use super::installation::Installation;
use crate::app::App;
use crate::domain::refusal::Error;
use crate::platform::fault::Fault;
use crate::platform::{postgres_errors, private_file};
use crate::services::request_context::RequestContext;

/// How long an examination may take.
const MAX_DURATION: Duration = Duration::from_secs(20);

/// What was found until the end, or until the time was over.
#[derive(Debug)]
pub struct DoctorReport {
    pub findings: Vec<DoctorFinding>,
}

impl DoctorReport {
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.problem.is_none())
    }
}

#[derive(Debug)]
pub enum Examination {
    Done(DoctorReport),
    /// Another examination of this server is not over.
    Busy,
}

/// Examines the server for an administrator.
///
/// # Errors
/// A refusal of other callers.
pub async fn examine_server(ctx: &RequestContext<'_>, app: &App) -> Result<Examination, Error> {
    ctx.caller.require_administrator()?;
    let Ok(_permit) = app.limits.examinations.try_acquire() else { return Ok(Examination::Busy) };
    let installation = Installation {
        config: &app.config,
        clock: &app.clock,
        pool: &app.pool,
        place: match app.config.database_url {
            Some(_) => format!("the database at {}", postgres_errors::place(&app.pool.connect_options())),
            None => format!("the database in {}", private_file::shown(&app.config.data_dir)),
        },
        seal: Ok(app.seal.clone()),
    };
    let mut findings = vec![DoctorFinding::of("configuration", Ok(()))];
    let examined = timeout(MAX_DURATION, installation.examine(&mut findings)).await;
    let seconds = MAX_DURATION.as_secs();
    let late = || Fault::new(format!("not done within {seconds} s: run `actchain doctor` beside the server"));
    match examined {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => findings.push(DoctorFinding::of::<()>("database", Err(fault))),
        Err(_) => findings.push(DoctorFinding::of::<()>("the other checks", Err(late()))),
    }
    Ok(Examination::Done(DoctorReport { findings }))
}
