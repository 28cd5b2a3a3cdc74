//! Connecting a third party's account: the dance of RFC 6749 §4.1 with RFC 7636, RFC 9207 and a browser that has to be the
//! same all the way.

use crate::support::provider::{Asked, Provider};
use crate::support::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_can_be_declared_and_asked() {
    let (world, provider) = (World::new().await, Provider::start().await);
    world.server.apply(&provider.declaration("mail", "scopes: [mail.read]")).await.unwrap();
    assert_eq!(provider.count(Asked::Code), 0);
}
