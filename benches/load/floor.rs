//! The lower bound of one exchange: CPU time of its signatures alone, in this thread over many repetitions.

use actchain_protocol::jose::{Alg, Jws, SigningAlg, SigningKey};
use serde_json::json;

pub struct Floor {
    pub proof: f64,
    pub assertion: f64,
    pub sign: f64,
}

const TIMES: u32 = 5_000;

pub fn measure() -> Floor {
    let (key, _) = SigningKey::generate(SigningAlg::ES256).unwrap();
    let proof = key
        .sign_proof("dpop+jwt", &json!({"jti": "1", "htm": "POST", "htu": "https://as/x", "iat": 1}))
        .unwrap();
    let jws = Jws::parse(&proof).unwrap();
    let verify = repeat(|| assert!(jws.verified_by(key.public(), &Alg::ALL)));
    let claims = json!({"iss": "https://as.example.com", "sub": "alice", "scope": "mail.read"});
    Floor { proof: verify, assertion: verify, sign: repeat(|| drop(key.sign("at+jwt", &claims).unwrap())) }
}

fn repeat(mut work: impl FnMut()) -> f64 {
    for _ in 0..TIMES / 10 {
        work();
    }
    let before = thread_cpu();
    for _ in 0..TIMES {
        work();
    }
    (thread_cpu() - before) / f64::from(TIMES)
}

fn thread_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1_000.0
}
