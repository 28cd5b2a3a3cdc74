//! The macro that makes the types of actions and details from one list.

/// From one list: the actions with their names, and the details that an event of each action has. Each line has the
/// variant, the outcome, the name, the code if there is one, and the detail.
macro_rules! actions {
    ($(
        $(#[doc = $when:literal])+
        $variant:ident $outcome:ident $name:literal $(code $code:literal)?
        $(($shared:ty))? $({ $($members:tt)* })?;
    )+) => {
        /// What an event records.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Action {
            $($(#[doc = $when])+ $variant,)+
        }

        impl Action {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name in events.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// When an event of this action is recorded, for the documentation.
            pub fn when(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($when),+).trim_ascii(),)+
                }
            }

            pub fn outcome(self) -> EventOutcome {
                match self {
                    $(Self::$variant => EventOutcome::$outcome,)+
                }
            }

            /// The event code; only delegation state changes have a code.
            pub fn code(self) -> Option<&'static str> {
                match self {
                    $($(Self::$variant => Some($code),)?)+
                    _ => None,
                }
            }
        }

        impl FromStr for Action {
            type Err = ();

            fn from_str(name: &str) -> Result<Self, ()> {
                match name {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(()),
                }
            }
        }

        /// An action with its details.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "action", content = "detail")]
        pub enum EventKind {
            $(
                $(#[doc = $when])+
                #[serde(rename = $name)]
                $variant $(($shared))? $({ $($members)* })?,
            )+
        }

        impl EventKind {
            pub fn action(&self) -> Action {
                match self {
                    $(Self::$variant { .. } => Action::$variant,)+
                }
            }
        }
    };
}

pub(super) use actions;
