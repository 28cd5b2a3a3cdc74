//! Chapter 5: Carol's mailbox is at a third party. Its credential goes into the vault, and an agent two hops away can
//! retrieve it until she revokes the delegation.

use std::sync::Arc;

use actchain_client::{Presented, Token};
use serde_json::{Value, json};

use super::client::{Answer, Call, DemoCaller, issued, text};
use super::fixtures::{Cast, IDP};
use super::narrator::ExpectedRefusal;
use super::provider::{ApiAnswer, DemoProvider};
use super::{Story, count_leaks};
use crate::platform::fault::{Context, Fault};

/// Carol's token and connections.
struct Carol {
    token: String,
    /// The id of the connection that she lets agents use.
    home: String,
    /// The id of the connection that she does not share.
    work: String,
}

impl Carol {
    fn caller(&self) -> DemoCaller<'_> {
        DemoCaller::User(&self.token)
    }
}

/// Carol's delegation, and the token at the end of its chain.
struct Delegated {
    id: String,
    token: Arc<Token>,
}

/// A request for a credential.
struct Retrieval<'a> {
    caller: DemoCaller<'a>,
    connection: &'a str,
}

impl Story {
    /// The vault, from the declaration of a provider to the disconnection of a connection.
    pub(super) async fn vault(&mut self, cast: &Cast) -> Result<(), Fault> {
        self.narrator.chapter("A tool gets the credential of Carol's mailbox from the vault.");
        let provider = DemoProvider::start(self.detail)?;
        self.declare_provider(&provider).await?;
        let carol = self.connect(cast, &provider).await?;
        let delegated = self.delegate_connection(cast, &carol).await?;
        let credential = self.retrieve_twice(cast, &provider, &carol, &delegated).await?;
        self.other_retrievals(cast, &carol, &delegated).await?;
        self.revoke_connection_delegation(cast, &carol, &delegated).await?;
        self.disconnect(&provider, &carol, &credential).await?;
        self.log_of_vault(&provider, &carol, &delegated).await?;
        provider.stop().await;
        Ok(())
    }

    async fn declare_provider(&mut self, provider: &DemoProvider) -> Result<(), Fault> {
        self.narrator
            .step("The operator declares the provider of mailboxes, with the server's client id and secret.");
        let secret = self.process.write("mailbox.secret", provider.secret().as_bytes())?;
        let path = self.process.write("mailbox.yaml", provider.manifest(&secret).as_bytes())?;
        self.command("the manifest is applied", &["apply", "-f", &path]).await?;
        let listed = self.command("the providers are listed", &["connection", "providers"]).await?;
        let endpoint = listed.last_line().split_whitespace().last();
        let expected = format!("{}/token", provider.base);
        self.narrator.check(
            "the endpoint is from the provider's metadata",
            endpoint,
            Some(expected.as_str()),
        );
        let shown = [listed.stdout, listed.stderr].concat();
        let secrets = [provider.secret().to_owned()];
        self.narrator.check("the client secret is not shown", count_leaks(&shown, &secrets), 0);
        self.narrator
            .proved("The server reads the endpoints from the provider's metadata. The secret is not shown.");
        Ok(())
    }

    async fn connect(&mut self, cast: &Cast, provider: &DemoProvider) -> Result<Carol, Fault> {
        self.narrator.step(
            "Carol consents at the provider. Its tokens go into the vault (actchain connection import, \
             POST /api/v1/connections).",
        );
        let token = cast.user_token("carol")?;
        let tokens = provider.consent("carol").await?;
        let messages = provider.messages(&tokens.access_token).await?;
        self.narrator.check("the provider accepts its token", messages, ApiAnswer::carols(0));
        let import = [
            ["connection", "import", "--provider", "mailbox", "--owner-iss", IDP].as_slice(),
            &["--owner-sub", "carol", "--name", "home", "--file", "-"],
        ]
        .concat();
        // Carol keeps her access token: the server obtains an access token with the refresh token.
        let credential = json!({"refresh_token": tokens.refresh_token, "scope": tokens.scope});
        let imported = self.process.run_reading(&import, &credential.to_string()).await?;
        self.check_success("the credential is imported", &imported);
        let credential = provider.consent("carol").await?;
        let wanted = json!({"provider": "mailbox", "name": "work", "credential": credential});
        let call = Call::post("/api/v1/connections").json(wanted);
        let work = self.http.call(&DemoCaller::User(&token), call).await?;
        self.narrator.check_status("Carol stores another credential herself", &work, 201);
        self.narrator.check("its connection is active", work.text("/state"), "active");
        let listed = self.command("the connections are listed", &["connection", "list", "--json"]).await?;
        let items: Value = serde_json::from_str(&listed.stdout).context("reading the list of connections")?;
        let [home, second] = ["/items/0/id", "/items/1/id"].map(|pointer| text(&items, pointer).to_owned());
        self.narrator.check("the list has the first", home.is_empty().then_some(&items), None);
        self.narrator.check("the list has the second", second.as_str(), work.text("/id"));
        let outputs = [imported.stdout, imported.stderr, listed.stdout, listed.stderr, work.body.to_string()];
        let secrets = provider.secrets().await;
        self.narrator.check("no output shows a credential", count_leaks(&outputs.concat(), &secrets), 0);
        self.narrator
            .proved("The vault has both of her mailboxes, home and work. No answer shows a credential.");
        Ok(Carol { token, home, work: second })
    }

    /// Makes delegations that name a connection, and exchanges Carol's token down to the last agent.
    async fn delegate_connection(&mut self, cast: &Cast, carol: &Carol) -> Result<Delegated, Fault> {
        self.narrator
            .step("Carol delegates the home mailbox to user-proxy, which delegates it to email-svc.");
        let issuer = self.http.issuer.clone();
        let details = json!([{
            "type": "vault_connection", "identifier": carol.home, "actions": ["retrieve"],
            "scopes": ["messages.read"],
        }]);
        let wanted = json!({
            "delegate": "user-proxy", "audiences": [&issuer], "authorization_details": &details, "expires_in": 1800,
        });
        let first = self.http.call(&carol.caller(), Call::post("/delegate").json(wanted)).await?;
        self.narrator.check_status("Carol's delegation is active", &first, 201);
        let id = first.text("/id").to_owned();
        let wanted = json!({"delegate": "email-svc", "parent": id, "expires_in": 900});
        let proxy = self.http.caller(&cast.user_proxy).await?;
        let second = self.http.call(&proxy, Call::post("/delegate").json(wanted)).await?;
        self.narrator.check_status("its child delegation is active", &second, 201);
        let first = cast.user_proxy.exchange(Presented::jwt(&carol.token)).audience(&issuer);
        let token = self.hop(&cast.user_proxy, first.authorization_details(&details)).await?;
        let second = cast.email_svc.exchange(issued(&token)).audience(&issuer);
        let token = self.hop(&cast.email_svc, second.authorization_details(&details)).await?;
        self.show_token(&token);
        self.narrator.proved(
            "Both delegations are active, and email-svc has a token for the vault that needs its key.",
        );
        Ok(Delegated { id, token })
    }

    async fn retrieve(&self, retrieval: Retrieval<'_>) -> Result<Answer, Fault> {
        let Retrieval { caller, connection } = retrieval;
        self.http.call(&caller, Call::post(format!("/vault/connections/{connection}/token"))).await
    }

    async fn retrieve_twice(
        &mut self,
        cast: &Cast,
        provider: &DemoProvider,
        carol: &Carol,
        delegated: &Delegated,
    ) -> Result<String, Fault> {
        self.narrator.step(
            "email-svc retrieves the credential (POST /vault/connections/{id}/token), and reads the mailbox.",
        );
        let first = self.retrieve_and_use(cast, provider, carol, delegated).await?;
        let second = self.retrieve_and_use(cast, provider, carol, delegated).await?;
        // Not compared by `check`, whose output would show the credentials.
        let renewed = (first != second).then_some("another credential");
        self.narrator.check("the second retrieval gives the same credential", renewed, None);
        let made_up = provider.messages("made-up").await?;
        self.narrator.check("the provider refuses a made-up token", made_up, ApiAnswer::Refused(401));
        self.narrator.proved(
            "It gets a fresh access token that opens the mailbox, and never the refresh token. The vault renews once.",
        );
        Ok(second)
    }

    async fn retrieve_and_use(
        &mut self,
        cast: &Cast,
        provider: &DemoProvider,
        carol: &Carol,
        delegated: &Delegated,
    ) -> Result<String, Fault> {
        let caller = DemoCaller::Agent(&cast.email_svc, Arc::clone(&delegated.token));
        let answer = self.retrieve(Retrieval { caller, connection: &carol.home }).await?;
        let narrator = &mut self.narrator;
        narrator.check_status("email-svc retrieves the credential", &answer, 200);
        narrator.check("it is of the home mailbox", answer.text("/connection"), carol.home.as_str());
        let refresh_token = answer.body.get("refresh_token").map(|_| "a refresh token");
        narrator.check("it has no refresh token", refresh_token, None);
        let credential = answer.text("/access_token").to_owned();
        let messages = provider.messages(&credential).await?;
        narrator.check("the provider accepts it, refreshed once", messages, ApiAnswer::carols(1));
        Ok(credential)
    }

    async fn other_retrievals(
        &mut self,
        cast: &Cast,
        carol: &Carol,
        delegated: &Delegated,
    ) -> Result<(), Fault> {
        self.narrator.step("email-svc tries Carol's work mailbox. A thief tries email-svc's token.");
        let caller = DemoCaller::Agent(&cast.email_svc, Arc::clone(&delegated.token));
        let other = self.retrieve(Retrieval { caller, connection: &carol.work }).await?;
        let expected = ExpectedRefusal::problem(403, "connection_missing");
        self.narrator.check_refused("a connection that is not delegated is refused", &other, &expected);
        let caller = DemoCaller::Agent(&cast.thief, Arc::clone(&delegated.token));
        let stolen = self.retrieve(Retrieval { caller, connection: &carol.home }).await?;
        let expected = ExpectedRefusal::problem(401, "access_token_bound");
        self.narrator.check_refused("a thief with the token is refused", &stolen, &expected);
        self.narrator.proved(
            "Both are refused (connection_missing, access_token_bound): one connection, one key, nothing more.",
        );
        Ok(())
    }

    async fn revoke_connection_delegation(
        &mut self,
        cast: &Cast,
        carol: &Carol,
        delegated: &Delegated,
    ) -> Result<(), Fault> {
        self.narrator.step("Carol revokes her delegation. email-svc tries again.");
        let call = Call::post(format!("/delegate/{}/revoke", delegated.id));
        let revoked = self.http.call(&carol.caller(), call).await?;
        self.narrator.check_status("the revocation is accepted", &revoked, 200);
        let caller = DemoCaller::Agent(&cast.email_svc, Arc::clone(&delegated.token));
        let after = self.retrieve(Retrieval { caller, connection: &carol.home }).await?;
        let expected = ExpectedRefusal::problem(409, "delegation_revoked");
        self.narrator.check_refused("the next retrieval is refused", &after, &expected);
        self.narrator.proved("It is refused (delegation_revoked): the vault opens for active chains only.");
        Ok(())
    }

    async fn disconnect(
        &mut self,
        provider: &DemoProvider,
        carol: &Carol,
        credential: &str,
    ) -> Result<(), Fault> {
        self.narrator.step(
            "email-svc still has the credential it retrieved. The operator disconnects the mailbox \
             (actchain connection disconnect).",
        );
        let before = provider.messages(credential).await?;
        self.narrator.check("before, the credential works, refreshed once", before, ApiAnswer::carols(1));
        let disconnect =
            ["connection", "disconnect", &carol.home, "--json", "--reason", "Carol has another mailbox"];
        let output = self.command("the connection is disconnected", &disconnect).await?;
        let view: Value = serde_json::from_str(&output.stdout).context("reading the connection")?;
        let revoked = view.get("provider_revoked");
        self.narrator.check("the server revokes it at the provider", revoked, Some(&json!(true)));
        let after = provider.messages(credential).await?;
        self.narrator.check("after, the provider refuses it", after, ApiAnswer::Refused(401));
        self.narrator
            .proved("The server revokes the grant at the provider: the credential stops working there, too.");
        Ok(())
    }

    async fn log_of_vault(
        &mut self,
        provider: &DemoProvider,
        carol: &Carol,
        delegated: &Delegated,
    ) -> Result<(), Fault> {
        self.narrator.step("The operator exports the log, and reads who used the mailbox (actchain audit export). A user has a pseudonym there.");
        let path = self.process.folder.join("vault.jsonl").display().to_string();
        self.command("the log is exported", &["audit", "export", "--out", &path]).await?;
        let log = std::fs::read_to_string(&path).context("reading the export")?;
        let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of_home = |event: &&Value| text(event, "/target") == carol.home;
        let events: Vec<&Value> = events.iter().filter(of_home).collect();
        let actions: Vec<&str> = events.iter().map(|event| text(event, "/action")).collect();
        let expected = [
            "vault.connection.created",
            "vault.connection.refreshed",
            "vault.token.retrieved",
            "vault.token.retrieved",
            "vault.token.refused",
            "vault.connection.disconnected",
        ];
        let narrator = &mut self.narrator;
        narrator.check_order("the log has the events of the mailbox in order", &actions, &expected);
        let retrieved = events.iter().find(|event| text(event, "/action") == "vault.token.retrieved");
        let retrieved = retrieved.copied().cloned().unwrap_or_default();
        let (agent, user) = (text(&retrieved, "/actor/client_id"), text(&retrieved, "/subject/sub"));
        let chain = [text(&retrieved, "/act_chain/0/sub"), text(&retrieved, "/act_chain/1/sub")];
        narrator.picture(&format!("{agent} retrieved it for {user}, in the chain {}", chain.join(" → ")));
        narrator.check("email-svc retrieved the credential", agent, "email-svc");
        narrator.check("the user has a pseudonym", user.starts_with("person-"), true);
        narrator.check("the export does not name Carol", log.matches("\"carol\"").count(), 0);
        narrator.check("user-proxy acted before it", chain, ["user-proxy", "email-svc"]);
        let delegation = text(&retrieved, "/delegation_path/0");
        narrator.check("Carol's delegation allowed it", delegation, delegated.id.as_str());
        let server = std::fs::read_to_string(self.process.folder.join("server.log"));
        let written = [log, server.context("reading the server's log")?].concat();
        let secrets = provider.secrets().await;
        narrator.check("no log has a secret of the provider", count_leaks(&written, &secrets), 0);
        self.command("the log is valid", &["audit", "verify"]).await?;
        self.narrator.proved(
            "Agent, user, chain and delegation are in the log. No log has a secret. The log is valid.",
        );
        Ok(())
    }
}
