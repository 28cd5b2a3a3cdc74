//! A mail server on loopback that keeps what it accepts. It speaks as much of SMTP (RFC 5321) as a submission needs, with
//! STARTTLS (RFC 3207), TLS from the first byte, and `AUTH PLAIN` (RFC 4954).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a client submitted.
#[derive(Debug, Clone)]
pub struct ReceivedMail {
    pub from: String,
    pub to: Vec<String>,
    /// Header and body, without the dots that SMTP adds.
    pub text: String,
    pub encrypted: bool,
    /// Name and password of the login.
    pub login: Option<(String, String)>,
}

impl ReceivedMail {
    /// A header field on one line.
    pub fn field(&self, name: &str) -> String {
        let unfolded = self.text.replace("\r\n ", " ");
        let head = unfolded.split("\r\n\r\n").next().unwrap();
        let value = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        value.unwrap_or_else(|| panic!("no {name}: {head}")).to_owned()
    }

    /// The body, without its transfer encoding.
    pub fn body(&self) -> String {
        let body = self.text.split_once("\r\n\r\n").unwrap().1.replace("=\r\n", "");
        body.replace("=3D", "=").replace("\r\n", "\n")
    }
}

/// What the server does with TLS.
#[derive(Clone)]
pub enum Tls {
    None,
    Offered(TlsAcceptor),
    FromTheFirstByte(TlsAcceptor),
}

#[derive(Default)]
struct State {
    mails: Mutex<Vec<ReceivedMail>>,
    /// Replies to `RCPT` by address; others are accepted.
    replies: Mutex<HashMap<String, String>>,
    /// Whether the server hangs up in place of the reply to a mail that it keeps.
    hangs_up: AtomicBool,
    /// Whether the server never replies to `QUIT`.
    ignores_quit: AtomicBool,
}

pub struct SmtpServer {
    pub port: u16,
    state: Arc<State>,
}

impl SmtpServer {
    pub async fn start(tls: Tls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, state) = (tls.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    match tls {
                        Tls::FromTheFirstByte(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            session(BufReader::new(stream), &state, Secured::Now, None).await;
                        }
                        Tls::Offered(acceptor) => {
                            let offer = Some(acceptor.clone());
                            let plain = BufReader::new(stream);
                            let Some(stream) = session(plain, &state, Secured::Not, offer).await else {
                                return;
                            };
                            let Ok(stream) = acceptor.accept(stream.into_inner()).await else { return };
                            session(BufReader::new(stream), &state, Secured::Since, None).await;
                        }
                        Tls::None => {
                            session(BufReader::new(stream), &state, Secured::Not, None).await;
                        }
                    }
                });
            }
        });
        Self { port, state }
    }

    /// Answers `RCPT` for an address; an empty reply accepts it.
    pub fn replies(&self, address: &str, reply: &str) {
        self.state.replies.lock().unwrap().insert(address.to_owned(), reply.to_owned());
    }

    /// Whether the server hangs up in place of the reply to a mail that it keeps.
    pub fn hangs_up(&self, hangs_up: bool) {
        self.state.hangs_up.store(hangs_up, Ordering::SeqCst);
    }

    /// Whether the server never replies to `QUIT`.
    pub fn ignores_quit(&self, ignores_quit: bool) {
        self.state.ignores_quit.store(ignores_quit, Ordering::SeqCst);
    }

    pub fn mails(&self) -> Vec<ReceivedMail> {
        self.state.mails.lock().unwrap().clone()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Secured {
    Not,
    /// From the first byte.
    Now,
    /// Since STARTTLS: there is no second greeting.
    Since,
}

/// Serves one connection. Returns the stream for the handshake after STARTTLS.
async fn session<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: BufReader<S>,
    state: &State,
    secured: Secured,
    offer: Option<TlsAcceptor>,
) -> Option<BufReader<S>> {
    if secured != Secured::Since {
        stream.write_all(b"220 localhost ESMTP\r\n").await.ok()?;
    }
    let mut mail = ReceivedMail {
        from: String::new(),
        to: Vec::new(),
        text: String::new(),
        encrypted: secured != Secured::Not,
        login: None,
    };
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        let address = || line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        let reply = match line.split(' ').next().unwrap().to_ascii_uppercase().as_str() {
            "EHLO" if offer.is_some() => "250-localhost\r\n250 STARTTLS".to_owned(),
            "EHLO" => "250-localhost\r\n250-AUTH PLAIN\r\n250 8BITMIME".to_owned(),
            "STARTTLS" => {
                stream.write_all(b"220 go on\r\n").await.ok()?;
                return Some(stream);
            }
            "AUTH" => {
                let sent = STANDARD.decode(line.rsplit(' ').next().unwrap()).unwrap();
                let text = String::from_utf8(sent).unwrap();
                let mut parts = text.split('\0').skip(1).map(str::to_owned);
                mail.login = parts.next().zip(parts.next());
                match mail.login.as_ref().is_some_and(|(_, password)| password.starts_with("wrong")) {
                    true => "535 5.7.8 no".to_owned(),
                    false => "235 welcome".to_owned(),
                }
            }
            "MAIL" => {
                mail.from = address();
                "250 ok".to_owned()
            }
            "RCPT" => {
                let to = address();
                let reply = state.replies.lock().unwrap().get(&to).cloned().unwrap_or_default();
                if reply.is_empty() {
                    mail.to.push(to);
                    "250 ok".to_owned()
                } else {
                    reply
                }
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.ok()?;
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.ok()?;
                    match line.as_str() {
                        ".\r\n" => break,
                        line => mail.text.push_str(line.strip_prefix('.').unwrap_or(line)),
                    }
                }
                state.mails.lock().unwrap().push(mail.clone());
                if state.hangs_up.load(Ordering::SeqCst) {
                    return None;
                }
                mail.to.clear();
                "250 kept".to_owned()
            }
            "QUIT" if state.ignores_quit.load(Ordering::SeqCst) => std::future::pending().await,
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await.ok()?;
                return None;
            }
            _ => "502 unknown".to_owned(),
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
    }
}
