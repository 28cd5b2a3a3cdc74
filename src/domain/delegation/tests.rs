use time::Duration;

use super::*;

const PERIOD: Duration = Duration::seconds(10);

fn begin() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::days(20_000)
}

fn after(seconds: i64) -> OffsetDateTime {
    begin() + Duration::seconds(seconds)
}

fn facts() -> DelegationRecord {
    DelegationRecord {
        activated_at: Some(begin()),
        expires_at: begin() + PERIOD,
        revoked_at: None,
        principal_revoked_at: None,
        key_rotating: false,
        suspended_at: None,
        standing_grant_suspended_at: None,
        max_uses: Some(2),
        uses: 0,
        used_up_at: None,
        exhausted_at: None,
    }
}

fn used_up(seconds: i64) -> DelegationRecord {
    DelegationRecord { uses: 2, used_up_at: Some(after(seconds)), ..facts() }
}

/// A path of two delegations with these records.
fn path(parent: DelegationRecord, child: DelegationRecord) -> DelegationPath {
    let one = |id: &str, facts: DelegationRecord| Delegation {
        id: id.to_owned(),
        path: vec![id.to_owned()],
        parent: None,
        root: Principal::new("i", "s"),
        delegator: Principal::new("i", "s"),
        delegate: "c".to_owned(),
        terms: DelegationLimits::unrestricted(),
        origin: Provenance::Granted,
        requested_at: begin(),
        requested_by: None,
        facts,
        requested_ttl: None,
        reason: None,
        agent: None,
        revoke_reason: None,
        pending_jwk: None,
        standing_grant_id: None,
    };
    DelegationPath(vec![one("parent", parent), one("child", child)])
}

#[test]
fn states_follow_from_facts() {
    let (active, now) = (facts(), begin());
    assert_eq!(active.state(now), DelegationState::Active);
    assert_eq!(active.check(now + PERIOD), Err(Inactive::Expired));
    let revoked = DelegationRecord { revoked_at: Some(now), ..active.clone() };
    assert_eq!(revoked.state(now + Duration::days(1)), DelegationState::Revoked, "revoked stays revoked");
    let used = used_up(0);
    assert_eq!((used.state(now), used.check(now)), (DelegationState::Expired, Err(Inactive::UsedUp)));
    let revoked_then = DelegationRecord { revoked_at: Some(after(5)), ..used };
    assert_eq!(revoked_then.state(after(6)), DelegationState::Revoked, "its revocation was answered by that");
    let principal_revoked = DelegationRecord { principal_revoked_at: Some(now), ..active.clone() };
    assert_eq!(
        (principal_revoked.state(now), principal_revoked.check(now)),
        (DelegationState::Revoked, Err(Inactive::PrincipalRevoked))
    );
    let key_rotating = DelegationRecord { key_rotating: true, ..active.clone() };
    assert_eq!(key_rotating.state(now), DelegationState::Requested);
    let requested = DelegationRecord { activated_at: None, ..active };
    assert_eq!(requested.check(now), Err(Inactive::Requested));
}

#[test]
fn the_first_end_on_the_path_decides_for_ever() {
    let long = DelegationRecord { expires_at: after(600), max_uses: None, ..facts() };
    let revoked = |seconds| DelegationRecord { revoked_at: Some(after(seconds)), ..long.clone() };
    let principal_revoked =
        |seconds| DelegationRecord { principal_revoked_at: Some(after(seconds)), ..long.clone() };
    let used = |seconds| DelegationRecord {
        max_uses: Some(1),
        uses: 1,
        used_up_at: Some(after(seconds)),
        ..long.clone()
    };
    let (by_parent, by_itself) = (Some("parent"), None);
    for (parent, child, state) in [
        (revoked(5), facts(), (DelegationState::Revoked, by_parent)),
        (revoked(15), facts(), (DelegationState::Expired, by_itself)),
        (revoked(10), facts(), (DelegationState::Expired, by_itself)),
        (principal_revoked(5), facts(), (DelegationState::Revoked, by_parent)),
        (principal_revoked(15), facts(), (DelegationState::Expired, by_itself)),
        (used(5), facts(), (DelegationState::Expired, by_parent)),
        (
            DelegationRecord { revoked_at: Some(after(7)), ..used(5) },
            facts(),
            (DelegationState::Expired, by_parent),
        ),
        (revoked(5), used_up(3), (DelegationState::Expired, by_itself)),
        (revoked(3), used_up(5), (DelegationState::Revoked, by_parent)),
        (
            long.clone(),
            DelegationRecord { principal_revoked_at: Some(after(15)), ..facts() },
            (DelegationState::Expired, by_itself),
        ),
        (
            used(5),
            DelegationRecord { revoked_at: Some(after(7)), ..facts() },
            (DelegationState::Revoked, by_itself),
        ),
        (
            revoked(5),
            DelegationRecord { revoked_at: Some(after(7)), ..facts() },
            (DelegationState::Revoked, by_parent),
        ),
        (long.clone(), facts(), (DelegationState::Expired, by_itself)),
    ] {
        let path = path(parent, child);
        for seconds in [20, 20_000] {
            let shown = path.state(after(seconds));
            assert_eq!(shown, state, "{path:?}");
        }
    }
}

#[test]
fn what_waits_above_is_waited_for_below() {
    let waiting = DelegationRecord { key_rotating: true, ..facts() };
    assert_eq!(path(waiting, facts()).state(begin()), (DelegationState::Requested, Some("parent")));
    assert_eq!(path(facts(), facts()).state(begin()), (DelegationState::Active, None));
}
