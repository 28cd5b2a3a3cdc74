//! The vault: credentials of third parties, available only under active delegations.

mod agent_token;
mod by_provider;
mod callback;
mod code_exchange;
mod connect;
mod connectable;
mod connections;
mod declare;
mod delegated;
mod disconnect;
mod discover;
mod exchange;
mod exchange_declaration;
mod exchange_order;
mod exchanged_tokens;
mod provider_client;
mod providers;
mod proxy;
mod purpose;
mod put_provider;
mod refresh;
mod rekey;
mod retrieval;
mod retrieve;
mod standing;
mod unused_tokens;
mod uses;

pub use self::callback::{AuthorizationResponse, CallbackPage, CallbackParams, finish, handle_callback};
pub use self::code_exchange::{ConnectedAccount, ConnectionOrigin};
pub use self::connect::{AuthorizationRequest, begin};
pub use self::connectable::{ConnectableProvider, connectable, open_authorizations};
pub use self::connections::{
    ConnectionQuery, ConnectionView, Import, NewConnection, create, list, rotate, show,
};
pub use self::declare::{DeclaredProvider, ProviderList, ProviderView, declare, providers};
pub use self::disconnect::{Disconnection, disconnect, end_exchanged, forget_ended, purge};
pub use self::exchange::{VaultExchangeRequest, exchange};
pub use self::providers::{ProviderDeclaration, ResolvedProvider, prepare};
pub use self::proxy::{ProxyRequest, ProxyResponse, call};
pub(super) use self::put_provider::{OWN_AUDIENCE, prepare_all, put as put_provider};
pub use self::rekey::{Rekeyed, rekey};
pub use self::retrieve::{DeliveryForm, RetrievalRequest, RetrievedCredential, retrieve};
pub use self::unused_tokens::revoke_again;
pub use self::uses::{
    ConnectionUse, ProviderNotice, RecentUses, UsesByAgent, last_uses, provider_notice, recent_uses,
};
