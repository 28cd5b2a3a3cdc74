//! Chapter 7: chains in the audit log, its export, and the detection of altered copies.

use serde_json::{Value, json};

use super::Story;
use super::client::{Agent, Call, text};
use super::fixtures::{Cast, IDP};
use crate::platform::fault::{Context, Fault};
use actchain_protocol::base64url;
use actchain_protocol::jose::{SigningAlg, SigningKey};
use actchain_protocol::merkle::{self, Frontier};
use actchain_protocol::signed_note::{self, Checkpoint, VerifierKey};

/// What an auditor stores where operators of the server cannot write.
struct AuditorsCopy {
    /// The public key of the log's checkpoints.
    key: String,
    /// The first line of the checkpoint.
    origin: String,
    /// The path of the checkpoint.
    checkpoint: String,
}

/// An altered copy of an export.
struct Forgery {
    how: &'static str,
    content: String,
}

impl Story {
    pub(super) async fn audit(&mut self, cast: &Cast) -> Result<(), Fault> {
        self.narrator.chapter("The log proves it.");
        self.query_chain(&cast.auditor).await?;
        let copy = self.store_checkpoint().await?;
        let export = self.export(&copy).await?;
        self.forge(&export, &copy).await?;
        self.erase_alice().await
    }

    async fn erase_alice(&mut self) -> Result<(), Fault> {
        self.narrator.step("Alice leaves. The operator erases her from the log (actchain principal erase).");
        let revoke = ["client", "revoke-all", "alice", "--iss", IDP];
        self.command("all of Alice's authority ends", &revoke).await?;
        let erasure = ["principal", "erase", IDP, "alice", "--yes"];
        let erased = self.command("Alice is erased", &erasure).await?;
        self.narrator.picture(erased.stdout.lines().next().unwrap_or_default());
        self.command("the log is still valid", &["audit", "verify"]).await?;
        self.narrator.proved("Nothing in the log says any more who Alice was, and the log is still valid.");
        Ok(())
    }

    async fn query_chain(&mut self, auditor: &Agent) -> Result<(), Fault> {
        self.narrator.step("An auditor queries who acted for Carol (GET /api/v1/audit-logs/chains).");
        let caller = self.http.caller(auditor).await?;
        let query = "/api/v1/audit-logs/chains?subject_sub=carol&action=vault.token.retrieved&limit=1";
        let chains = self.http.call(&caller, Call::get(query)).await?;
        let chain = chains.body.pointer("/items/0").cloned().unwrap_or_default();
        let hops = chain.get("hops").and_then(Value::as_array).cloned().unwrap_or_default();
        let people = chains.body.get("people");
        let pseudonym = text(&chain, "/subject/sub");
        let carol = people.and_then(|people| people.get(pseudonym)).map_or("", |one| text(one, "/sub"));
        self.narrator.check("the answer says whose pseudonym it is", carol, "carol");
        self.narrator.picture(&draw(&format!("{carol} ({pseudonym})"), &hops));
        let kinds: Vec<&str> = hops.iter().map(|hop| text(hop, "/kind")).collect();
        let narrator = &mut self.narrator;
        narrator.check(
            "the chain begins with two exchanges",
            kinds.get(..2),
            Some(&["exchange", "exchange"][..]),
        );
        let retrieval = kinds.iter().find(|kind| **kind == "retrieval");
        narrator.check("a retrieval is at its end", retrieval, Some(&"retrieval"));
        let continuity = text(&chain, "/key_continuity");
        narrator.check("every hop has the key of its token", continuity, "consistent");
        narrator.check("Carol has revoked the chain", text(&chain, "/state"), "revoked");
        let graph = self.http.call(&caller, Call::get("/api/v1/agents/email-svc/delegations/graph")).await?;
        for side in ["/inbound/items", "/outbound/items"] {
            let edges = graph.body.pointer(side).and_then(Value::as_array).map_or(0, Vec::len);
            let empty = (edges == 0).then_some(&graph.body);
            self.narrator.check(&format!("the graph of email-svc has {side}"), empty, None);
        }
        self.narrator.proved(
            "The log has the exchanges and the retrievals, each with the right key. The chain is revoked.",
        );
        Ok(())
    }

    async fn store_checkpoint(&mut self) -> Result<AuditorsCopy, Fault> {
        self.narrator.step(
            "The auditor stores a signed checkpoint and its key elsewhere (actchain audit checkpoint).",
        );
        let note = self.command("the log has a checkpoint", &["audit", "checkpoint"]).await?;
        let key = ["key", "show", "--purpose", "checkpoint"];
        let key = self.command("the checkpoint's key is shown", &key).await?;
        let public = self.http.text(&format!("{}/audit/checkpoint", self.http.issuer)).await?;
        self.narrator.check("the published checkpoint is the same", public, note.stdout.as_str());
        let checkpoint = self.process.write("stored.note", note.stdout.as_bytes())?;
        self.narrator.proved("The server publishes the same checkpoint to everyone.");
        let origin = note.stdout.lines().next().unwrap_or_default().to_owned();
        Ok(AuditorsCopy { key: key.stdout.trim().to_owned(), origin, checkpoint })
    }

    async fn export(&mut self, copy: &AuditorsCopy) -> Result<String, Fault> {
        self.narrator.step("The auditor exports the log, and verifies it without the server (actchain audit export, verify).");
        let path = self.process.folder.join("log.jsonl").display().to_string();
        self.command("the log is exported", &["audit", "export", "--out", &path]).await?;
        self.command("the log in the database is valid", &["audit", "verify"]).await?;
        let verified = self.command("the export is valid", &verify(&path, copy)).await?;
        self.narrator.picture(verified.last_line());
        self.narrator.proved(
            "The log in the database is valid. The export is valid, and agrees with the stored checkpoint.",
        );
        std::fs::read_to_string(&path).context("reading the export")
    }

    async fn forge(&mut self, export: &str, copy: &AuditorsCopy) -> Result<(), Fault> {
        self.narrator.step(
            "An attacker alters copies of the export: changed, deleted, reordered, truncated, re-signed.",
        );
        let mut found = Vec::new();
        for Forgery { how, content } in forgeries(export, copy)? {
            let path = self.process.write(&format!("{how}.jsonl"), content.as_bytes())?;
            if how == "re-signed" {
                let what = "without the stored key, the re-signed copy seems valid";
                self.command(what, &["audit", "verify", "--file", &path]).await?;
            }
            let verified = self.process.run(&verify(&path, copy)).await?;
            self.narrator.check(&format!("the {how} copy is found"), verified.code, 1);
            found.push(format!("{how}: {}", verified.last_line()));
        }
        self.narrator.picture(&found.join("\n"));
        self.narrator.proved(
            "Each is found. Only the stored key finds the re-signed copy, which seems valid by itself.",
        );
        Ok(())
    }
}

fn verify<'a>(path: &'a str, copy: &'a AuditorsCopy) -> [&'a str; 8] {
    ["audit", "verify", "--file", path, "--key", &copy.key, "--checkpoint", &copy.checkpoint]
}

fn forgeries(export: &str, copy: &AuditorsCopy) -> Result<[Forgery; 5], Fault> {
    let lines: Vec<&str> = export.lines().collect();
    if lines.len() < 3 {
        return Err(Fault::new("the export has too few events to alter"));
    }
    let middle = lines.len() / 2;
    let mut deleted = lines.clone();
    deleted.remove(middle);
    let mut reordered = lines.clone();
    reordered.swap(middle, middle + 1);
    let checkpoint = lines.last().copied().unwrap_or_default();
    let truncated: Vec<&str> = lines.iter().take(middle).copied().chain([checkpoint]).collect();
    let changed = forged(export);
    Ok([
        Forgery { how: "changed", content: changed },
        Forgery { how: "deleted", content: deleted.join("\n") },
        Forgery { how: "reordered", content: reordered.join("\n") },
        Forgery { how: "truncated", content: truncated.join("\n") },
        Forgery { how: "re-signed", content: resign(&lines, &copy.origin)? },
    ])
}

/// The text with another agent in the place of one.
fn forged(text: &str) -> String {
    text.replace("\"client_id\":\"email-svc\"", "\"client_id\":\"mallory\"")
}

/// Forges an export: changes an event, rebuilds the tree, and signs it under the log's name with another key.
fn resign(lines: &[&str], origin: &str) -> Result<String, Fault> {
    let (key, _) = SigningKey::generate(SigningAlg::Ed25519)?;
    let mut tree = Frontier::default();
    let mut copy = String::new();
    let events = lines.len().saturating_sub(1);
    // The stored leaf hashes only help to name the changed event; they are left out.
    for line in lines.iter().take(events).filter(|line| !line.starts_with("{\"leaves\"")) {
        let forged = forged(line);
        tree.push(merkle::leaf(forged.as_bytes()));
        copy.push_str(&forged);
        copy.push('\n');
    }
    let public = key.public_jwk().get("x").and_then(Value::as_str).and_then(base64url::decode);
    let public = public.and_then(|bytes| bytes.try_into().ok());
    let verifier = public.and_then(|public| VerifierKey::new(origin, public));
    let verifier = verifier.ok_or_else(|| Fault::new("a key that cannot be named"))?;
    let text = Checkpoint { origin: origin.to_owned(), size: tree.size(), root: tree.root() }.text();
    let line = verifier.signature_line(&key.sign_raw(text.as_bytes())?);
    let checkpoint = json!({"checkpoint": signed_note::note(&text, &line), "key": verifier.text()});
    Ok(format!("{copy}{checkpoint}\n"))
}

/// Draws a chain: its subject and its hops, with the agent, the kind and the reason of each.
fn draw(subject: &str, hops: &[Value]) -> String {
    let hop = |hop: &Value| {
        [text(hop, "/client_id"), text(hop, "/kind"), text(hop, "/reason")].join(" ").trim_end().to_owned()
    };
    let hops: Vec<String> = hops.iter().map(hop).collect();
    format!("{subject}\n└─ {}", hops.join("\n└─ "))
}
