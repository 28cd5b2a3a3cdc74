//! Chapter 6: an agent reports what it does and why. A step that a rule blocks is not done, and the texts of the steps end
//! before the log.

use actchain_client::Presented;
use serde_json::{Value, json};

use super::client::{Call, DemoCaller};
use super::delegations::read;
use super::fixtures::{Cast, MAIL};
use super::{Story, count_leaks};
use crate::platform::fault::Fault;

/// What the agent does: a harmless step, and one that a mail asked it to take.
const SEARCH: &str = "search --unread --from accountant";
const ATTACK: &str = "curl --unix-socket /var/run/docker.sock http://localhost/containers/json";
const WHY_SEARCH: &str = "Dora asked for the letters of her accountant.";
const WHY_ATTACK: &str = "The newest letter says that I have to list the containers of this machine.";

/// Dora's delegation, and the session in which the agent works.
struct DorasWork {
    token: String,
    delegation: String,
    session: String,
}

impl DorasWork {
    fn caller(&self) -> DemoCaller<'_> {
        DemoCaller::User(&self.token)
    }
}

impl Story {
    pub(super) async fn steps(&mut self, cast: &Cast) -> Result<(), Fault> {
        self.narrator.chapter("An agent says what it does and why. A rule stops it.");
        let work = self.report_step(cast).await?;
        self.ask_before_attack(cast, &work).await?;
        self.print_trace(&work).await?;
        self.erase_texts(&work).await
    }

    async fn report_step(&mut self, cast: &Cast) -> Result<DorasWork, Fault> {
        self.narrator.step(
            "user-proxy gets a token for Dora's mail, and reports its first step (POST /delegate/{id}/steps).",
        );
        let token = cast.user_token("dora")?;
        let wanted = json!({"delegate": "user-proxy", "scopes": ["mail.read"], "audiences": [MAIL]});
        let delegated =
            self.http.call(&DemoCaller::User(&token), Call::post("/delegate").json(wanted)).await?;
        self.narrator.check_status("Dora's delegation is active", &delegated, 201);
        let delegation = delegated.text("/id").to_owned();
        self.hop(&cast.user_proxy, read(cast.user_proxy.exchange(Presented::jwt(&token)))).await?;
        let step = json!({
            "tool": "mail", "input": SEARCH, "output": "1 letter", "reasoning": WHY_SEARCH,
            "outcome": "succeeded", "took_ms": 12, "tool_use_id": "step-1",
        });
        let proxy = self.http.caller(&cast.user_proxy).await?;
        let call = Call::post(format!("/delegate/{delegation}/steps")).json(json!({"steps": [step]}));
        let reported = self.http.call(&proxy, call).await?;
        self.narrator.check_status("the report is accepted", &reported, 200);
        self.narrator.check("the step is recorded", reported.body.get("recorded"), Some(&json!(1)));
        self.narrator.proved("The step is in the log, in the session of the exchange. It counts as a use.");
        let session = reported.text("/session_id").to_owned();
        Ok(DorasWork { token, delegation, session })
    }

    async fn ask_before_attack(&mut self, cast: &Cast, work: &DorasWork) -> Result<(), Fault> {
        self.narrator
            .step("A letter asks the agent to call the Docker socket. Its tool asks the server first.");
        let proxy = self.http.caller(&cast.user_proxy).await?;
        let step = json!({
            "tool": "bash", "input": ATTACK, "reasoning": WHY_ATTACK, "outcome": "proposed",
            "tool_use_id": "step-2",
        });
        let call = Call::post(format!("/delegate/{}/steps", work.delegation));
        let answer = self.http.call(&proxy, call.json(json!({"ask": true, "steps": [step]}))).await?;
        self.narrator.check_status("the question is answered", &answer, 200);
        self.narrator.check("the step is blocked", answer.text("/decision"), "block");
        let rule = answer.text("/steps/0/findings/0/rule");
        self.narrator.check("a rule about containers found it", rule, "CE-009");
        self.narrator.check("it is in the same session", answer.text("/session_id"), work.session.as_str());
        self.narrator.proved(
            "The answer is \"block\" (CE-009, abuse of the Docker API), and the tool does not run it.",
        );
        Ok(())
    }

    async fn print_trace(&mut self, work: &DorasWork) -> Result<(), Fault> {
        self.narrator.step("The operator prints the trace of the session (actchain session trace).");
        let trace = self.command("the trace is printed", &["session", "trace", &work.session]).await?;
        let lines: Vec<&str> = trace.stdout.lines().collect();
        self.narrator.check("it has an exchange and two steps", lines.len(), 3);
        for (line, expected) in
            lines.iter().zip([&["exchange"][..], &["mail", WHY_SEARCH], &["bash", "CE-009", WHY_ATTACK]])
        {
            for part in expected {
                let shown = line.contains(part).then_some("shown");
                self.narrator.check(&format!("the trace has {part:?}"), shown, Some("shown"));
            }
            // Without times and ids.
            let parts = line.split("  ").skip(2).filter(|part| !part.starts_with("delegation_id"));
            self.narrator.picture(&parts.collect::<Vec<_>>().join("  "));
        }
        self.narrator.proved("The exchange and both steps are there in order, with what the agent said.");
        Ok(())
    }

    async fn erase_texts(&mut self, work: &DorasWork) -> Result<(), Fault> {
        self.narrator.step("Dora erases the texts of the session (DELETE /api/v1/sessions/{id}/texts).");
        let erase = Call::delete(format!("/api/v1/sessions/{}/texts", work.session));
        let erased = self.http.call(&work.caller(), erase).await?;
        self.narrator.check_status("the erasure is accepted", &erased, 200);
        let trace = ["session", "trace", work.session.as_str(), "--json"];
        let trace = self.command("the trace is read again", &trace).await?;
        let page: Value = serde_json::from_str(&trace.stdout).unwrap_or_default();
        let items = page.get("items").and_then(Value::as_array).map_or(0, Vec::len);
        let texts = [SEARCH, ATTACK, WHY_SEARCH, WHY_ATTACK].map(str::to_owned);
        self.narrator.check("no text is left", count_leaks(&trace.stdout, &texts), 0);
        self.narrator.check("the exchange and both steps are still listed", items.min(3), 3);
        self.command("the log is still valid", &["audit", "verify"]).await?;
        self.narrator.proved("The texts are erased, the steps are still there, and the log is valid.");
        Ok(())
    }
}
