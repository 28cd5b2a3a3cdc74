//! The last part of the demo: chains in the audit log, its export, and the detection of a changed event.

use serde_json::{Value, json};

use super::fixtures::Cast;
use super::process::{Agent, Caller};
use super::{Story, print_indented, text};
use crate::platform::fault::{Context, Fault};
use crate::platform::jose::{SigningAlg, SigningKey};
use crate::protocol::merkle::{self, Frontier};
use crate::protocol::signed_note::{self, Checkpoint, VerifierKey};

/// What an auditor stores where operators of the server cannot write.
struct Kept {
    key: String,
    key_text: String,
    note: String,
}

impl Story {
    pub(super) async fn audit(&mut self, cast: &Cast) -> Result<(), Fault> {
        self.chain_view(&cast.auditor).await?;
        let kept = self.keep().await?;
        let export = self.take_along(&kept).await?;
        self.tamper(&export, &kept).await
    }

    async fn chain_view(&mut self, auditor: &Agent) -> Result<(), Fault> {
        self.step("An auditor asks who acted for Carol (GET /api/v1/audit-logs/chains).");
        let issuer = self.process.issuer.clone();
        let wanted = [("grant_type", "client_credentials"), ("audience", issuer.as_str())];
        let own = self.process.form("/oauth/token", (auditor, Some(&auditor.key)), &wanted).await?;
        let token = own.body.get("access_token").and_then(Value::as_str).unwrap_or_default();
        let at = "/api/v1/audit-logs/chains?subject_sub=carol&action=vault.token.retrieved&limit=1";
        let said = self.process.call(&Caller::Agent(auditor, token), ("GET", at), None).await?;
        let chain = said.body.pointer("/items/0").cloned().unwrap_or_default();
        print_indented(&draw(&chain));
        let hops = chain.get("hops").and_then(Value::as_array).cloned().unwrap_or_default();
        let steps: Vec<&str> = hops.iter().filter_map(|hop| hop.get("kind")?.as_str()).collect();
        self.check("two hops, and what was fetched at their end", {
            steps.starts_with(&["exchange", "exchange"]) && steps.contains(&"retrieval")
        });
        self.check(
            "every hop under the key that it should have",
            chain.get("key_continuity") == Some(&json!("consistent")),
        );
        self.check("Carol has taken it back since", chain.get("state") == Some(&json!("revoked")));
        let graph = "/api/v1/agents/email-svc/delegations/graph";
        let graph = self.process.call(&Caller::Agent(auditor, token), ("GET", graph), None).await?;
        let edges = |side: &str| graph.body.pointer(side).and_then(Value::as_array).map_or(0, Vec::len);
        let (inbound, outbound) = (edges("/inbound/items"), edges("/outbound/items"));
        println!("  email-svc was given {inbound} delegations and gave {outbound} on");
        self.check("the graph of email-svc has both sides", inbound > 0 && outbound > 0);
        Ok(())
    }

    async fn keep(&mut self) -> Result<Kept, Fault> {
        self.step("The auditor keeps a checkpoint and its key elsewhere (actchain audit checkpoint).");
        let note = self.process.run(&["audit", "checkpoint"]).await?;
        let key = self.process.run(&["key", "show", "--purpose", "checkpoint"]).await?;
        print_indented(&note.text);
        let public = self.process.text(&format!("{}/audit/checkpoint", self.process.issuer)).await?;
        self.check("the server shows the same to everybody", public == note.out);
        let path = self.process.write("kept.note", note.out.as_bytes())?;
        Ok(Kept { key: key.out.trim().to_owned(), key_text: note.out, note: path })
    }

    async fn take_along(&mut self, kept: &Kept) -> Result<String, Fault> {
        self.step("The log is exported, and verified without the server (actchain audit export, verify).");
        let path = self.process.folder.join("log.jsonl").display().to_string();
        let exported = self.process.run(&["audit", "export", "--out", &path]).await?;
        print_indented(&exported.text);
        let verified = self.process.run(&["audit", "verify"]).await?;
        self.check("the log in the database verifies", verified.code == 0);
        let offline = self.verify(&path, kept).await?;
        print_indented(&offline.1);
        self.check("its export verifies against what was kept", offline.0 == 0);
        std::fs::read_to_string(&path).context("reading the export")
    }

    async fn verify(&self, path: &str, kept: &Kept) -> Result<(i32, String), Fault> {
        let arguments = ["audit", "verify", "--file", path, "--key", &kept.key, "--checkpoint", &kept.note];
        let said = self.process.run(&arguments).await?;
        Ok((said.code, said.text))
    }

    async fn tamper(&mut self, export: &str, kept: &Kept) -> Result<(), Fault> {
        self.step("Somebody tampers with a copy, in five ways; each is found.");
        let lines: Vec<&str> = export.lines().collect();
        let middle = lines.len() / 2;
        let events = lines.len().saturating_sub(1);
        let without = |place: usize| {
            lines.iter().enumerate().filter(|(n, _)| *n != place).map(|(_, line)| *line).collect::<Vec<_>>()
        };
        let mut swapped = lines.clone();
        swapped.swap(middle, middle + 1);
        let voucher = lines.last().copied().unwrap_or_default();
        let cut: Vec<&str> = lines.iter().take(middle).copied().chain([voucher]).collect();
        let copies = [
            ("changed", export.replacen("\"sub\":\"carol\"", "\"sub\":\"mallory\"", 1)),
            ("deleted", without(middle).join("\n")),
            ("reordered", swapped.join("\n")),
            ("truncated", cut.join("\n")),
            ("re-signed", resign(&lines, events, kept)?),
        ];
        for (what, copy) in copies {
            let path = self.process.write(&format!("{what}.jsonl"), copy.as_bytes())?;
            if what == "re-signed" {
                let believed = self.process.run(&["audit", "verify", "--file", &path]).await?;
                self.check("re-signed under another key, it looks whole by itself", believed.code == 0);
            }
            let (code, said) = self.verify(&path, kept).await?;
            print_indented(&said);
            self.check(&format!("{what}: found"), code == 1);
        }
        Ok(())
    }
}

/// Forges an export: changes an event, rebuilds the tree, and signs it under the log's name with another key.
fn resign(lines: &[&str], events: usize, kept: &Kept) -> Result<String, Fault> {
    let (key, _) = SigningKey::generate(SigningAlg::Ed25519)?;
    let mut tree = Frontier::default();
    let mut copy = String::new();
    // The stored leaf hashes only help to name the changed event; they are left out.
    for line in lines.iter().take(events).filter(|line| !line.starts_with("{\"leaves\"")) {
        let forged = line.replace("\"sub\":\"carol\"", "\"sub\":\"mallory\"");
        tree.push(merkle::leaf(forged.as_bytes()));
        copy.push_str(&forged);
        copy.push('\n');
    }
    let origin = kept.key_text.lines().next().unwrap_or_default().to_owned();
    let public =
        key.public_jwk().get("x").and_then(Value::as_str).and_then(crate::platform::base64url::decode);
    let public = public.and_then(|bytes| bytes.try_into().ok());
    let verifier = public.and_then(|public| VerifierKey::new(&origin, public));
    let verifier = verifier.ok_or_else(|| Fault::new("a key that cannot be named"))?;
    let text = Checkpoint { origin, size: tree.size(), root: tree.root() }.text();
    let line = verifier.signature_line(&key.sign_raw(text.as_bytes())?);
    let voucher = json!({"checkpoint": signed_note::note(&text, &line), "key": verifier.text()});
    Ok(format!("{copy}{voucher}\n"))
}

/// Draws a chain, one line for each hop.
fn draw(chain: &Value) -> String {
    let empty = serde_json::Map::new();
    let chain = chain.as_object().unwrap_or(&empty);
    let subject = chain.get("subject").and_then(Value::as_object).unwrap_or(&empty);
    let mut drawn =
        format!("{} for {}, now {}\n", text(chain, "txn"), text(subject, "sub"), text(chain, "state"));
    for hop in chain.get("hops").and_then(Value::as_array).into_iter().flatten() {
        let Some(hop) = hop.as_object() else { continue };
        let depth = hop.get("depth").and_then(Value::as_u64).and_then(|depth| usize::try_from(depth).ok());
        let jkt: String = text(hop, "jkt").chars().take(8).collect();
        let (reason, target) = (text(hop, "reason"), text(hop, "target"));
        let what = [text(hop, "kind"), reason, target].into_iter().filter(|part| !part.is_empty());
        drawn.push_str(&format!(
            "{}└─ {} {} (key {jkt}…, {})\n",
            "   ".repeat(depth.unwrap_or_default().saturating_sub(1)),
            text(hop, "client_id"),
            what.collect::<Vec<_>>().join(" "),
            text(hop, "key_continuity"),
        ));
    }
    drawn
}
