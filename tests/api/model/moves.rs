//! Generated moves, independent of a world. Numbers select from the parties and things that exist when a move is
//! played, so a list of moves stays playable when some moves are removed.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::{NewTree, ValueTree};
use proptest::test_runner::TestRunner;

/// The caller of a move.
#[derive(Debug, Clone, Copy)]
pub enum By {
    /// A caller that is allowed to make the move; the number selects one of several.
    Entitled(usize),
    Admin,
    Any(usize),
}

/// The object of a move: a suitable object if there is one, or any object.
#[derive(Debug, Clone, Copy)]
pub enum Which {
    Suitable(usize),
    Any(usize),
}

/// Limits as bit sets and indexes; `fitting` reduces them to what is allowed.
#[derive(Debug, Clone)]
pub struct Ask {
    pub scopes: Option<u8>,
    pub audiences: Option<u8>,
    pub ceiling: Option<usize>,
    pub max_uses: Option<i64>,
    pub max_depth: Option<usize>,
    pub ttl: Option<i64>,
    pub fitting: bool,
}

/// The delegate of a delegation.
#[derive(Debug, Clone, Copy)]
pub enum To {
    Agent(usize),
    Unknown,
    New(usize),
}

/// The access that an exchange requests.
#[derive(Debug, Clone)]
pub struct Want {
    pub scopes: Option<u8>,
    pub audiences: Option<u8>,
    pub ceiling: Option<usize>,
    pub fitting: bool,
}

#[derive(Debug, Clone)]
pub enum Move {
    /// A user creates a delegation, possibly in the name of another user.
    Grant {
        user: usize,
        named: Option<usize>,
        to: To,
        ask: Ask,
    },
    /// An agent requests a delegation from a user.
    Request {
        agent: usize,
        user: usize,
        ask: Ask,
    },
    Approve {
        by: By,
        which: Which,
        ask: Ask,
    },
    Deny {
        by: By,
        which: Which,
    },
    Subdelegate {
        by: By,
        which: Which,
        to: To,
        ask: Ask,
    },
    Renew {
        by: By,
        which: Which,
        ttl: i64,
    },
    Revoke {
        by: By,
        which: Which,
    },
    Commands {
        by: By,
        which: Which,
        count: i64,
    },
    /// Exchanges a user's token, new or reused, for a token of this server.
    FirstHop {
        which: Which,
        user: usize,
        agent: usize,
        fresh: bool,
        want: Want,
    },
    /// Exchanges a token of this server for another agent.
    NextHop {
        which: Which,
        agent: usize,
        want: Want,
    },
    /// Exchanges a token of this server for its own holder.
    Narrow {
        which: Which,
        want: Want,
    },
    RevokeToken {
        by: By,
        which: Which,
    },
    Disable {
        by: By,
        agent: usize,
    },
    Enable {
        by: By,
        which: Which,
    },
    RevokeAll {
        by: By,
        whom: usize,
    },
    EndTask {
        by: By,
        task: usize,
    },
    Read {
        by: By,
        which: Which,
    },
    /// Runs the jobs, which must change nothing.
    Sweep,
    Pass {
        seconds: i64,
    },
}

fn number() -> impl Strategy<Value = usize> {
    0usize..60
}

fn by() -> impl Strategy<Value = By> {
    prop_oneof![
        7 => number().prop_map(By::Entitled),
        1 => Just(By::Admin),
        2 => number().prop_map(By::Any),
    ]
}

fn by_admin() -> impl Strategy<Value = By> {
    prop_oneof![4 => Just(By::Admin), 1 => number().prop_map(By::Any)]
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![4 => number().prop_map(Which::Suitable), 1 => number().prop_map(Which::Any)]
}

fn to() -> impl Strategy<Value = To> {
    prop_oneof![
        12 => number().prop_map(To::Agent),
        1 => Just(To::Unknown),
        3 => (0usize..2).prop_map(To::New),
    ]
}

/// A subset as bits; rarely empty, because an empty set allows nothing.
fn bits(of: u8) -> impl Strategy<Value = Option<u8>> {
    let all = 1u8 << of;
    prop_oneof![
        30 => Just(None),
        29 => (1..all).prop_map(Some),
        1 => Just(Some(0)),
    ]
}

fn ttl() -> impl Strategy<Value = Option<i64>> {
    let seconds = prop_oneof![
        20 => select(vec![60i64, 120, 300, 600, 1_200, 3_000]),
        1 => Just(4_000),
    ];
    proptest::option::weighted(0.6, seconds)
}

fn ask() -> impl Strategy<Value = Ask> {
    let ceiling = proptest::option::weighted(0.3, 0usize..4);
    let max_uses = proptest::option::weighted(0.3, 1i64..6);
    let max_depth = proptest::option::weighted(0.2, 1usize..5);
    let fitting = prop::bool::weighted(0.8);
    (bits(4), bits(2), ceiling, max_uses, max_depth, ttl(), fitting).prop_map(
        |(scopes, audiences, ceiling, max_uses, max_depth, ttl, fitting)| Ask {
            scopes,
            audiences,
            ceiling,
            max_uses,
            max_depth,
            ttl,
            fitting,
        },
    )
}

fn want() -> impl Strategy<Value = Want> {
    let some = |of: u8| proptest::option::weighted(0.4, 1u8..(1 << of));
    let ceiling = proptest::option::weighted(0.2, 0usize..4);
    (some(4), some(2), ceiling, prop::bool::weighted(0.7))
        .prop_map(|(scopes, audiences, ceiling, fitting)| Want { scopes, audiences, ceiling, fitting })
}

fn one() -> impl Strategy<Value = Move> {
    let fresh = prop::bool::weighted(0.7);
    let named = proptest::option::weighted(0.1, number());
    let seconds = select(vec![1i64, 1, 5, 20, 20, 60, 60, 120, 300]);
    prop_oneof![
        10 => (number(), named, to(), ask())
            .prop_map(|(user, named, to, ask)| Move::Grant { user, named, to, ask }),
        4 => (number(), number(), ask()).prop_map(|(agent, user, ask)| Move::Request { agent, user, ask }),
        5 => (by(), which(), ask()).prop_map(|(by, which, ask)| Move::Approve { by, which, ask }),
        2 => (by(), which()).prop_map(|(by, which)| Move::Deny { by, which }),
        16 => (by(), which(), to(), ask()).prop_map(|(by, which, to, ask)| Move::Subdelegate { by, which, to, ask }),
        4 => (by(), which(), select(vec![60i64, 300, 900, 1_800]))
            .prop_map(|(by, which, ttl)| Move::Renew { by, which, ttl }),
        2 => (by(), which()).prop_map(|(by, which)| Move::Revoke { by, which }),
        3 => (by(), which(), 1i64..4).prop_map(|(by, which, count)| Move::Commands { by, which, count }),
        14 => (which(), number(), number(), fresh, want())
            .prop_map(|(which, user, agent, fresh, want)| Move::FirstHop { which, user, agent, fresh, want }),
        18 => (which(), number(), want()).prop_map(|(which, agent, want)| Move::NextHop { which, agent, want }),
        5 => (which(), want()).prop_map(|(which, want)| Move::Narrow { which, want }),
        2 => (by(), which()).prop_map(|(by, which)| Move::RevokeToken { by, which }),
        1 => (by_admin(), number()).prop_map(|(by, agent)| Move::Disable { by, agent }),
        3 => (by_admin(), which()).prop_map(|(by, which)| Move::Enable { by, which }),
        1 => (by_admin(), number()).prop_map(|(by, whom)| Move::RevokeAll { by, whom }),
        2 => (by(), 0usize..2).prop_map(|(by, task)| Move::EndTask { by, task }),
        2 => (by(), which()).prop_map(|(by, which)| Move::Read { by, which }),
        2 => Just(Move::Sweep),
        6 => seconds.prop_map(|seconds| Move::Pass { seconds }),
    ]
}

/// Generates stories with this number of moves.
#[derive(Debug)]
pub struct Stories(pub usize);

impl Strategy for Stories {
    type Tree = Story;
    type Value = Vec<Move>;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let (one, mut moves) = (one(), Vec::new());
        for _ in 0..self.0 {
            moves.push(one.new_tree(runner)?.current());
        }
        Ok(Story { left: vec![true; self.0], before: vec![true; self.0], piece: self.0, at: 0, moves })
    }
}

/// A story that shrinks by removing pieces, large pieces first and the last pieces first: moves after a disagreement
/// did not cause it.
#[derive(Debug)]
pub struct Story {
    moves: Vec<Move>,
    left: Vec<bool>,
    before: Vec<bool>,
    /// The length of a piece.
    piece: usize,
    /// Pieces before this index are not tried yet.
    at: usize,
}

impl ValueTree for Story {
    type Value = Vec<Move>;

    fn current(&self) -> Vec<Move> {
        self.moves.iter().zip(&self.left).filter(|(_, left)| **left).map(|(made, _)| made.clone()).collect()
    }

    fn simplify(&mut self) -> bool {
        while self.piece > 0 {
            if self.at == 0 {
                (self.piece, self.at) = (self.piece / 2, self.moves.len());
                continue;
            }
            let piece = self.at.saturating_sub(self.piece)..self.at;
            self.at = piece.start;
            if self.left[piece.clone()].contains(&true) {
                self.before.clone_from(&self.left);
                self.left[piece].fill(false);
                return true;
            }
        }
        false
    }

    fn complicate(&mut self) -> bool {
        self.left.clone_from(&self.before);
        self.simplify()
    }
}
