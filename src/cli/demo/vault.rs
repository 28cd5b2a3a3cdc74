//! The vault part of the demo: Carol's calendar is at a third party. Her credential goes into the vault, and an agent
//! two hops away can retrieve it until she revokes the delegation.

use serde_json::{Value, json};

use super::delegations::said;
use super::fixtures::{Cast, IDP};
use super::process::{Agent, Answer, Caller, now};
use super::provider::Provider;
use super::{ACCESS_TOKEN, JWT, Story, print_indented};
use crate::platform::fault::{Context, Fault};

/// Carol's token and connections.
struct Carol {
    token: String,
    /// The connection that she lets agents use.
    home: String,
    /// The connection that she does not share.
    work: String,
}

impl Story {
    /// The vault, from the declaration of a provider to the disconnection of a connection.
    pub(super) async fn vault(&mut self, cast: &Cast) -> Result<(), Fault> {
        let provider = Provider::open().await?;
        self.declare_provider(&provider).await?;
        let carol = self.connect(cast, &provider).await?;
        let (delegation, token) = self.name_it(cast, &carol).await?;
        let credential = self.fetch(cast, &provider, (&carol, &token)).await?;
        self.not_named(cast, (&carol, &token)).await?;
        self.take_it_back(cast, (&carol, &token), &delegation).await?;
        self.disconnect(&provider, &carol, &credential).await?;
        self.log_of_vault(&provider, &carol, &delegation).await
    }

    async fn declare_provider(&mut self, provider: &Provider) -> Result<(), Fault> {
        self.step("An operator declares a provider of credentials, as whose client we are registered.");
        let secret = self.process.write("calendar.secret", provider.secret.as_bytes())?;
        let path = self.process.write("calendar.yaml", provider.manifest(&secret).as_bytes())?;
        let said = self.process.run(&["apply", "-f", &path]).await?;
        print_indented(&said.text);
        self.check("its endpoints are what it says of itself", said.code == 0);
        let listed = self.process.run(&["connection", "providers"]).await?;
        print_indented(&listed.text);
        self.check(
            "it is listed, and the secret between us is not shown",
            listed.text.contains(&format!("{}/token", provider.base))
                && !listed.text.contains(&provider.secret),
        );
        Ok(())
    }

    async fn connect(&mut self, cast: &Cast, provider: &Provider) -> Result<Carol, Fault> {
        self.step(
            "Carol agrees at the provider. What it gives goes into the vault (actchain connection import).",
        );
        let claims =
            json!({"iss": IDP, "sub": "carol", "aud": "actchain", "iat": now(), "exp": now() + 3600});
        let token = cast.idp.sign("JWT", &claims)?;
        let given = provider.agree("carol").await?;
        let (status, events) = provider.events(said(&given, "/access_token")).await?;
        self.check("the provider honours it", status == 200 && said(&events, "/events_of") == "carol");
        let import = ["connection", "import", "--provider", "calendar", "--owner-iss", IDP, "--owner-sub"];
        let import = [&import[..], &["carol", "--name", "home", "--file", "-"]].concat();
        // Carol keeps her access token: the server obtains an access token with the refresh token.
        let credential = json!({"refresh_token": given.get("refresh_token"), "scope": given.get("scope")});
        let imported = self.process.run_reading(&import, &credential.to_string()).await?;
        print_indented(&imported.text);
        self.check("it is kept", imported.code == 0);
        let again = provider.agree("carol").await?;
        let wanted = json!({"provider": "calendar", "name": "work", "credential": again});
        let at = ("POST", "/api/v1/connections");
        let work = self.process.call(&Caller::User(&token), at, Some(&wanted)).await?;
        self.check(
            "she brings another one herself (POST /api/v1/connections)",
            work.status == 201 && said(&work.body, "/state") == "active",
        );
        let listed = self.process.run(&["connection", "list", "--json"]).await?;
        let found: Value = serde_json::from_str(&listed.out).context("reading the list of connections")?;
        let ids = [said(&found, "/items/0/id"), said(&found, "/items/1/id")].map(str::to_owned);
        let [home, second] = ids;
        self.check("the list has both", !home.is_empty() && second == said(&work.body, "/id"));
        let answers = [imported.text, listed.text, work.body.to_string()].concat();
        let shown = provider.secrets().await.iter().any(|secret| answers.contains(secret));
        self.check("no answer shows what is kept", !shown);
        Ok(Carol { token, home, work: second })
    }

    /// Makes delegations that name a connection. Returns the first delegation and the token at the end of the chain.
    async fn name_it(&mut self, cast: &Cast, carol: &Carol) -> Result<(String, String), Fault> {
        self.step("Carol's delegation names the connection; user-proxy passes it on to email-svc.");
        let issuer = self.process.issuer.clone();
        let details = json!([
            {"type": "vault_connection", "identifier": carol.home, "actions": ["retrieve"], "scopes": ["events.read"]}
        ]);
        let wanted = json!({
            "delegate": "user-proxy", "audiences": [issuer], "authorization_details": details, "expires_in": 1800,
        });
        let at = ("POST", "/delegate");
        let first = self.process.call(&Caller::User(&carol.token), at, Some(&wanted)).await?;
        println!("  {} {}", first.status, json!(first.body.get("authorization_details")));
        let first_id = said(&first.body, "/id").to_owned();
        let wanted = json!({"delegate": "email-svc", "parent": first_id, "expires_in": 900});
        let proxy = self.own_token(&cast.user_proxy).await?;
        let proxy = Caller::Agent(&cast.user_proxy, &proxy);
        let second = self.process.call(&proxy, at, Some(&wanted)).await?;
        self.check("both are active", first.status == 201 && second.status == 201);
        let details = details.to_string();
        let wanted = [("audience", issuer.as_str()), ("authorization_details", details.as_str())];
        let token = self.hop(&cast.user_proxy, (&carol.token, JWT), &wanted).await?;
        let token = self.hop(&cast.email_svc, (&token, ACCESS_TOKEN), &wanted).await?;
        Ok((first_id, token))
    }

    async fn ask_vault(&self, agent: &Agent, (token, id): (&str, &str)) -> Result<Answer, Fault> {
        let at = format!("/vault/connections/{id}/token");
        self.process.call(&Caller::Agent(agent, token), ("POST", &at), None).await
    }

    async fn fetch(
        &mut self,
        cast: &Cast,
        provider: &Provider,
        (carol, token): (&Carol, &str),
    ) -> Result<String, Fault> {
        self.step(
            "email-svc fetches the credential (POST /vault/connections/{id}/token), and uses it at the provider.",
        );
        let mut last = String::new();
        for turn in 1..=2 {
            let answer = self.ask_vault(&cast.email_svc, (token, &carol.home)).await?;
            let mut shown = answer.body.clone();
            if let Some(token) = shown.get_mut("access_token") {
                *token = json!("…");
            }
            println!("  {} {shown}", answer.status);
            self.check(
                "an access token, and never the refresh token",
                answer.status == 200
                    && said(&answer.body, "/connection") == carol.home
                    && answer.body.get("refresh_token").is_none(),
            );
            let credential = said(&answer.body, "/access_token").to_owned();
            let (status, events) = provider.events(&credential).await?;
            println!("  {status} {events}");
            self.check("the provider answers it", status == 200 && said(&events, "/events_of") == "carol");
            let first = "it was fetched with the refresh token before it was handed out";
            let again = "the next fetch hands out the same, as long as it is good";
            self.check(
                if turn == 1 { first } else { again },
                (turn == 1 || credential == last) && events.get("renewed") == Some(&json!(1)),
            );
            last = credential;
        }
        let (status, _) = provider.events("made-up").await?;
        self.check("the provider looks at what it is given", status == 401);
        Ok(last)
    }

    async fn not_named(&mut self, cast: &Cast, (carol, token): (&Carol, &str)) -> Result<(), Fault> {
        self.step("Nothing else of Carol's can be had.");
        let other = self.ask_vault(&cast.email_svc, (token, &carol.work)).await?;
        self.vault_refuses("what the delegation does not name", &other, (403, "connection_missing"));
        let found = self.ask_vault(&cast.thief, (token, &carol.home)).await?;
        self.vault_refuses("a thief who has found the token", &found, (401, "access_token_bound"));
        Ok(())
    }

    fn vault_refuses(&mut self, what: &str, answer: &Answer, (status, reason): (u16, &str)) {
        self.refused(what, answer, ("", reason));
        self.check(&format!("by {status}"), answer.status == status);
    }

    async fn take_it_back(
        &mut self,
        cast: &Cast,
        (carol, token): (&Carol, &str),
        delegation: &str,
    ) -> Result<(), Fault> {
        self.step("Carol takes her delegation back.");
        let at = format!("/delegate/{delegation}/revoke");
        let revoked = self.process.call(&Caller::User(&carol.token), ("POST", &at), None).await?;
        println!("  {} {}", revoked.status, revoked.body);
        self.check("it is revoked", revoked.status == 200);
        let after = self.ask_vault(&cast.email_svc, (token, &carol.home)).await?;
        self.vault_refuses("email-svc gets nothing any more", &after, (409, "delegation_revoked"));
        Ok(())
    }

    async fn disconnect(
        &mut self,
        provider: &Provider,
        carol: &Carol,
        credential: &str,
    ) -> Result<(), Fault> {
        self.step("What it has fetched it still has, until it ends. Carol's connection is ended altogether.");
        let (before, events) = provider.events(credential).await?;
        self.check(
            "the provider was asked for no other one meanwhile",
            before == 200 && events.get("renewed") == Some(&json!(1)),
        );
        let reason = ["--reason", "Carol has another calendar"];
        let ended = [&["connection", "disconnect", &carol.home, "--json"], &reason[..]].concat();
        let ended = self.process.run(&ended).await?;
        print_indented(&ended.text);
        let view: Value = serde_json::from_str(&ended.out).context("reading the connection")?;
        self.check("the provider was told", view.get("provider_revoked") == Some(&json!(true)));
        let (after, _) = provider.events(credential).await?;
        self.check("and honours no more what email-svc still has", after == 401);
        Ok(())
    }

    async fn log_of_vault(
        &mut self,
        provider: &Provider,
        carol: &Carol,
        delegation: &str,
    ) -> Result<(), Fault> {
        self.step("The log says who had it, and on whose behalf.");
        let path = self.process.folder.join("vault.jsonl").display().to_string();
        let exported = self.process.run(&["audit", "export", "--out", &path]).await?;
        self.check("the log is exported", exported.code == 0);
        let log = std::fs::read_to_string(&path).context("reading the export")?;
        let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of_home = |event: &&Value| said(event, "/target") == carol.home;
        let events: Vec<&Value> = events.iter().filter(of_home).collect();
        let actions: Vec<&str> = events.iter().map(|event| said(event, "/action")).collect();
        println!("  {}", actions.join(", "));
        let story = [
            "vault.connection.created",
            "vault.connection.refreshed",
            "vault.token.retrieved",
            "vault.token.retrieved",
            "vault.token.refused",
            "vault.connection.disconnected",
        ];
        let mut told = actions.iter();
        self.check("in this order", story.iter().all(|action| told.any(|one| one == action)));
        let had = events.iter().find(|event| said(event, "/action") == "vault.token.retrieved");
        let had = had.copied().cloned().unwrap_or_default();
        println!("  {} on behalf of {}", said(&had, "/actor/client_id"), said(&had, "/subject/sub"));
        self.check(
            "email-svc, whom user-proxy had asked, for Carol, under her delegation",
            said(&had, "/act_chain/0/sub") == "user-proxy"
                && said(&had, "/act_chain/1/sub") == "email-svc"
                && said(&had, "/actor/client_id") == "email-svc"
                && said(&had, "/subject/sub") == "carol"
                && said(&had, "/delegation_path/0") == delegation,
        );
        let server = std::fs::read_to_string(self.process.folder.join("server.log"));
        let written = [log, server.context("reading the server's log")?].concat();
        let secrets = provider.secrets().await;
        let shows = secrets.iter().any(|secret| written.contains(secret));
        self.check("no secret of the provider's stands in it, nor in the server's log", !shows);
        let verified = self.process.run(&["audit", "verify"]).await?;
        print_indented(&verified.text);
        self.check("the log verifies", verified.code == 0);
        Ok(())
    }
}
