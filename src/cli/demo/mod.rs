//! `actchain demo`: plays every feature against a real server and prints the server's responses. Every step is checked;
//! the exit code is 1 if a step differs.

mod audit;
mod delegations;
mod fixtures;
mod process;
mod provider;
mod vault;

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use self::fixtures::{ARCHIVE, Cast, FILES, IDP, MAIL};
use self::process::{Agent, Answer, DemoProcess, now};
use super::context::Signals;
use super::{chain_view, out};
use crate::domain::client::usable_keys;
use crate::platform::fault::Fault;
use crate::platform::jose::{Alg, Jws, SigningKey};
use crate::protocol::access_token;

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Leave the demo's folder in place
    #[arg(long)]
    keep: bool,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Fault> {
    let mut signals = Signals::listen()?;
    let process = DemoProcess::set().await?;
    let mut story = Story { process, differs: 0, number: 0 };
    // Whatever the result, no process is left running and no secret is left on disk.
    let told = tokio::select! {
        told = story.tell() => told,
        cut = out::broken() => Err(cut),
        () = signals.stop() => Err(Fault::new("interrupted")),
    };
    let Story { process, mut differs, .. } = story;
    if !process.strike(args.keep).await? {
        println!("  DIFFERS: the server did not stop cleanly");
        differs += 1;
    }
    told?;
    match differs {
        0 => {
            println!("\nEvery step came out as it should.");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            println!("\n{differs} steps DIFFER.");
            Ok(ExitCode::FAILURE)
        }
    }
}

struct Story {
    process: DemoProcess,
    number: u32,
    differs: u32,
}

impl Story {
    async fn tell(&mut self) -> Result<(), Fault> {
        println!("A server of its own serves {}.", self.process.issuer);
        let cast = Cast::new()?;
        self.declare(&cast).await?;
        let tokens = self.hops(&cast).await?;
        self.relying_party(&tokens.2, &cast.followup_svc).await?;
        self.attacks(&cast, &tokens).await?;
        self.disable_the_middle(&cast, &tokens.2).await?;
        self.delegations(&cast).await?;
        self.vault(&cast).await?;
        self.audit(&cast).await
    }

    fn step(&mut self, title: &str) {
        self.number += 1;
        println!("\n{}. {title}", self.number);
    }

    fn check(&mut self, what: &str, holds: bool) {
        println!("  {} {what}", if holds { "ok     " } else { "DIFFERS" });
        self.differs += u32::from(!holds);
    }

    async fn declare(&mut self, cast: &Cast) -> Result<(), Fault> {
        self.step("An operator declares whom to trust and who may do what (actchain apply).");
        let path = self.process.write("world.yaml", cast.world(&self.process.issuer).as_bytes())?;
        let said = self.process.run(&["apply", "-f", &path]).await?;
        print_indented(&said.text);
        self.check("the plan was carried out", said.code == 0);
        let again = self.process.run(&["apply", "-f", &path]).await?;
        self.check("applying it again changes nothing", again.text.contains("0 changes made"));
        Ok(())
    }

    async fn hops(&mut self, cast: &Cast) -> Result<(String, String, String), Fault> {
        let claims =
            json!({"iss": IDP, "sub": "alice", "aud": "actchain", "iat": now(), "exp": now() + 3600});
        let users = cast.idp.sign("JWT", &claims)?;
        self.step("Alice's token, of her own identity provider, becomes one for user-proxy.");
        let wanted = [("audience", MAIL), ("audience", ARCHIVE), ("scope", "mail.read mail.send")];
        let first = self.hop(&cast.user_proxy, (&users, JWT), &wanted).await?;
        self.step("user-proxy asks email-svc, which goes on with less.");
        let second = self.hop(&cast.email_svc, (&first, ACCESS_TOKEN), &[]).await?;
        self.step("email-svc asks followup-svc, which may only read.");
        let third = self.hop(&cast.followup_svc, (&second, ACCESS_TOKEN), &[("scope", "mail.read")]).await?;
        self.step("What shrank on the way:");
        let claims = [&first, &second, &third].map(|token| claims_of(token));
        for one in &claims {
            println!(
                "  {:<14} {:<20} {:>3} s  {}",
                text(one, "client_id"),
                text(one, "scope"),
                life(one),
                audiences(one)
            );
        }
        let [a, b, c] = &claims;
        self.check("each lives no longer than the one before", life(a) >= life(b) && life(b) >= life(c));
        self.check("two targets, then one", audiences(a).contains(ARCHIVE) && audiences(b) == MAIL);
        self.check("the last one may only read", text(c, "scope") == "mail.read");
        self.check("Alice is the subject throughout", claims.iter().all(|one| text(one, "sub") == "alice"));
        self.check(
            "one chain id throughout",
            text(a, "txn") == text(b, "txn") && text(b, "txn") == text(c, "txn"),
        );
        Ok((first, second, third))
    }

    async fn hop(
        &mut self,
        agent: &Agent,
        (token, kind): (&str, &str),
        wanted: &[(&str, &str)],
    ) -> Result<String, Fault> {
        let answer = self.exchange(agent, &agent.key, (token, kind), wanted).await?;
        self.check("the exchange was granted", answer.status == 200);
        let issued = text(answer.body.as_object().unwrap_or(&Map::new()), "access_token");
        let claims = claims_of(&issued);
        print_indented(&chain_view::draw(&claims));
        let scope = text(&claims, "scope");
        let scope = if scope.is_empty() { "no scope".to_owned() } else { format!("scope {scope}") };
        println!("  for {}, {scope}, {} s", audiences(&claims), life(&claims));
        let bound = claims.get("cnf").and_then(|cnf| cnf.get("jkt")).and_then(Value::as_str);
        self.check("the token is bound to the key of its newest actor", bound == Some(agent.key.kid()));
        self.check("the answer says so", answer.body.get("token_type") == Some(&json!("DPoP")));
        Ok(issued)
    }

    async fn exchange(
        &self,
        agent: &Agent,
        key: &SigningKey,
        (token, kind): (&str, &str),
        wanted: &[(&str, &str)],
    ) -> Result<Answer, Fault> {
        let mut parameters = vec![("subject_token", token), ("subject_token_type", kind)];
        parameters.extend_from_slice(wanted);
        self.process.exchange(agent, key, &parameters).await
    }

    async fn relying_party(&mut self, token: &str, holder: &Agent) -> Result<(), Fault> {
        self.step("The mail server checks the last token against our JWKS.");
        let jws = Jws::parse(token).ok_or_else(|| Fault::new("the token is no JWT"))?;
        let signed = self.signed_by_us(&jws).await?;
        self.check("signed by a key of the set that it names", signed);
        self.check("typ is at+jwt", jws.header.is_typed("at+jwt"));
        self.check(
            "issued by us, for the mail server",
            text(&jws.claims, "iss") == self.process.issuer && text(&jws.claims, "aud") == MAIL,
        );
        self.check(
            "the one who presents it has the key",
            jws.claims.get("cnf") == Some(&json!({"jkt": holder.key.kid()})),
        );
        let said = self.process.run(&["token", "verify", token, "--audience", MAIL]).await?;
        self.check("actchain token verify says the same", said.code == 0);
        Ok(())
    }

    /// Whether a key of the JWKS that the server's metadata names has signed the token.
    async fn signed_by_us(&self, jws: &Jws<'_>) -> Result<bool, Fault> {
        let metadata = format!("{}/.well-known/oauth-authorization-server", self.process.issuer);
        let metadata = self.process.document(&metadata).await?;
        let jwks_uri = text(metadata.as_object().unwrap_or(&Map::new()), "jwks_uri");
        let keys = usable_keys(&self.process.document(&jwks_uri).await?).unwrap_or_default();
        Ok(keys.iter().any(|key| key.kid() == jws.header.kid.as_deref() && jws.verified_by(key, &Alg::ALL)))
    }

    async fn attacks(&mut self, cast: &Cast, tokens: &(String, String, String)) -> Result<(), Fault> {
        let (_, second, third) = tokens;
        self.step("A thief has found the last token.");
        let own = self.exchange(&cast.thief, &cast.thief.key, (third, ACCESS_TOKEN), &[]).await?;
        self.refused(
            "as itself, though it is a registered agent",
            &own,
            ("invalid_request", "delegation_required"),
        );
        let posing = self.exchange(&cast.followup_svc, &cast.thief.key, (third, ACCESS_TOKEN), &[]).await?;
        self.refused("posing as followup-svc, without its key", &posing, ("invalid_client", ""));
        self.step("followup-svc asks for more than it was given.");
        let wider = [("scope", "mail.read mail.send")];
        let wider =
            self.exchange(&cast.followup_svc, &cast.followup_svc.key, (second, ACCESS_TOKEN), &wider).await?;
        self.refused("a scope it was not given", &wider, ("invalid_scope", "scope_exceeds_grant"));
        let elsewhere = [("audience", FILES)];
        let elsewhere = self
            .exchange(&cast.followup_svc, &cast.followup_svc.key, (second, ACCESS_TOKEN), &elsewhere)
            .await?;
        self.refused("another target", &elsewhere, ("invalid_target", "resource_refused"));
        self.step("The chain must not come back to where it was.");
        let cycle = self.exchange(&cast.user_proxy, &cast.user_proxy.key, (third, ACCESS_TOKEN), &[]).await?;
        self.refused("user-proxy acts in it already", &cycle, ("invalid_request", "actor_cycle"));
        Ok(())
    }

    fn refused(&mut self, what: &str, answer: &Answer, (error, reason): (&str, &str)) {
        println!("  {} {}", answer.status, answer.body);
        let said = |name: &str| answer.body.get(name).and_then(Value::as_str).unwrap_or_default();
        self.check(&format!("refused: {what}"), said("error") == error && said("reason") == reason);
    }

    async fn disable_the_middle(&mut self, cast: &Cast, third: &str) -> Result<(), Fault> {
        self.step("email-svc, in the middle of the chain, is disabled (actchain client disable).");
        let said = self.process.run(&["client", "disable", "email-svc"]).await?;
        print_indented(&said.text);
        let holder = &cast.followup_svc;
        let after = self.exchange(holder, &holder.key, (third, ACCESS_TOKEN), &[]).await?;
        self.refused(
            "followup-svc can do nothing with its token",
            &after,
            ("invalid_request", "actor_disabled"),
        );
        self.process.run(&["client", "enable", "email-svc"]).await?;
        let again = self.exchange(holder, &holder.key, (third, ACCESS_TOKEN), &[]).await?;
        self.check("enabled again, the chain works again", again.status == 200);
        Ok(())
    }
}

fn claims_of(token: &str) -> Map<String, Value> {
    Jws::parse(token).map(|jws| jws.claims).unwrap_or_default()
}

fn text(object: &Map<String, Value>, name: &str) -> String {
    object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn audiences(claims: &Map<String, Value>) -> String {
    access_token::audience(claims).map(|aud| aud.values().join(" ")).unwrap_or_default()
}

fn life(claims: &Map<String, Value>) -> i64 {
    let number = |name: &str| claims.get(name).and_then(Value::as_i64).unwrap_or_default();
    number("exp") - number("iat")
}

fn print_indented(text: &str) {
    for line in text.lines() {
        println!("  {line}");
    }
}
