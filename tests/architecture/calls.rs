//! Which functions a call can mean, and whether it passes the connection of an `AuditedTransaction`.
//!
//! A closure that passes its own parameter on is as good as who calls it: each function that takes the closure has to call it with
//! the connection of an `AuditedTransaction`, or hand it on to such a function.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::code::{Code, Place};
use crate::references::{Arguments, ClosureId, Function, Kind, MethodCall};

/// A place that calls functions or refers to them.
pub struct Site<'a> {
    pub line: usize,
    /// The possible functions; none for those of other crates and for local closures.
    pub targets: Vec<usize>,
    pub arguments: &'a Arguments,
    /// The name of a call by one name, which can be a parameter.
    name: Option<&'a str>,
    /// The parameter of the target for the first argument: `self` comes before it.
    first: usize,
}

/// The sites of each function, in the order of `Code::functions`.
pub fn sites(code: &Code) -> Vec<Vec<Site<'_>>> {
    static NONE: LazyLock<Arguments> = LazyLock::new(Arguments::default);
    let methods = Methods::of(code);
    let mut sites: Vec<Vec<Site<'_>>> = code.functions.iter().map(|_| Vec::new()).collect();
    for reference in &code.references {
        let (arguments, called) = match &reference.kind {
            Kind::Import | Kind::ReExport => continue,
            Kind::Path => (&*NONE, false),
            Kind::Call(arguments) => (arguments, true),
        };
        let Some(function) = reference.function else { continue };
        let place = code.resolve(reference.module, &reference.path);
        let targets = place.and_then(|place| methods.places.get(&place).cloned()).unwrap_or_default();
        let name = reference.path.first().filter(|_| called && reference.path.len() == 1).map(String::as_str);
        sites[function].push(Site { line: reference.line, targets, arguments, name, first: 0 });
    }
    for (caller, sites) in code.functions.iter().zip(&mut sites) {
        sites.extend(caller.method_calls.iter().map(|call| Site {
            line: call.line,
            targets: methods.targets(code, caller, call),
            arguments: &call.arguments,
            name: None,
            first: 1,
        }));
    }
    sites
}

struct Methods<'a> {
    places: BTreeMap<&'a Place, Vec<usize>>,
    /// By name and number of arguments.
    methods: BTreeMap<(&'a str, usize), Vec<usize>>,
}

impl<'a> Methods<'a> {
    fn of(code: &'a Code) -> Self {
        let (mut places, mut methods) = (BTreeMap::new(), BTreeMap::new());
        for (at, function) in code.functions.iter().enumerate() {
            let same: &mut Vec<usize> = places.entry(&function.place).or_default();
            same.push(at);
            if let Some(name) = function.place.rest.last().filter(|_| function.is_method) {
                let same: &mut Vec<usize> =
                    methods.entry((name.as_str(), function.parameters.len() - 1)).or_default();
                same.push(at);
            }
        }
        Self { places, methods }
    }

    /// A call on `self` means a method of the same type, if there is one of this name.
    fn targets(&self, code: &Code, caller: &Function, call: &MethodCall) -> Vec<usize> {
        let mut own = caller.place.clone();
        own.rest.pop();
        own.rest.push(call.name.clone());
        let own = Some(own).filter(|own| call.receiver == ["self"] && self.places.contains_key(own));
        let possible = |target: &usize| {
            let target = &code.functions[*target];
            code.is_within(caller.written_in, target.visible_in)
                && own.as_ref().is_none_or(|own| *own == target.place)
        };
        let named = self.methods.get(&(call.name.as_str(), call.arguments.count())).into_iter().flatten();
        named.copied().filter(possible).collect()
    }
}

pub struct Audit<'a> {
    code: &'a Code,
    sites: &'a [Vec<Site<'a>>],
    /// The sites that take or call a closure.
    takers: BTreeMap<ClosureId, Vec<&'a Site<'a>>>,
}

/// Closures that take each other in a circle have no connection.
const DEEPEST: usize = 8;

impl<'a> Audit<'a> {
    pub fn of(code: &'a Code, sites: &'a [Vec<Site<'a>>]) -> Self {
        let mut takers: BTreeMap<ClosureId, Vec<&Site<'_>>> = BTreeMap::new();
        for site in sites.iter().flatten() {
            for closure in site.arguments.closures.iter().flatten().chain(&site.arguments.called) {
                takers.entry(*closure).or_default().push(site);
            }
        }
        Self { code, sites, takers }
    }

    pub fn is_audited(&self, arguments: &Arguments) -> bool {
        self.passes_audited(arguments, 0)
    }

    fn passes_audited(&self, arguments: &Arguments, depth: usize) -> bool {
        let closure = arguments.within.filter(|_| depth < DEEPEST);
        arguments.audited || closure.is_some_and(|closure| self.gets_audited(closure, depth + 1))
    }

    fn gets_audited(&self, closure: ClosureId, depth: usize) -> bool {
        let takers = self.takers.get(&closure);
        takers.is_some_and(|takers| {
            takers.iter().all(|site| {
                let taken = site.arguments.closures.iter().enumerate();
                let mut taken = taken.filter(|(_, one)| **one == Some(closure));
                (site.arguments.called != Some(closure) || self.passes_audited(site.arguments, depth))
                    && taken.all(|(at, _)| self.takes_audited(site, at, depth))
            })
        })
    }

    /// Whether the functions that a call can mean call its argument with an audited connection.
    fn takes_audited(&self, site: &Site<'_>, argument: usize, depth: usize) -> bool {
        let calls = |target: &usize| {
            let parameter = self.code.functions[*target].parameters.get(site.first + argument);
            parameter.is_some_and(|parameter| self.calls_audited(*target, &parameter.name, depth))
        };
        !site.targets.is_empty() && site.targets.iter().all(calls)
    }

    fn calls_audited(&self, function: usize, parameter: &str, depth: usize) -> bool {
        if depth >= DEEPEST {
            return false;
        }
        let mut used = false;
        let audited = self.sites[function].iter().all(|site| {
            let direct = site.name == Some(parameter);
            let mut passed = site.arguments.variables.iter().enumerate();
            let onward = passed.find(|(_, name)| name.as_deref() == Some(parameter));
            used |= direct || onward.is_some();
            (!direct || self.passes_audited(site.arguments, depth + 1))
                && onward.is_none_or(|(at, _)| self.takes_audited(site, at, depth + 1))
        });
        used && audited
    }
}
