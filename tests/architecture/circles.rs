//! Which file refers to which, and the circles among them.

use std::collections::{BTreeMap, VecDeque};

use crate::code::{Code, Place};
use crate::debt::Counts;
use crate::references::Kind;

/// For each file the files that it refers to, with the first line that does.
pub type Graph = BTreeMap<String, BTreeMap<String, usize>>;

pub fn graph(code: &Code) -> Graph {
    let mut graph = Graph::new();
    for reference in &code.references {
        let Some(Place { module, rest }) = code.resolve(reference.module, &reference.path) else { continue };
        // A module by itself is no item: what is taken from it follows. A module may re-export what is below it.
        let below = code.is_within(module, reference.module);
        if rest.is_empty() || (reference.kind == Kind::ReExport && below) {
            continue;
        }
        let (from, to) = (&code.file_of(reference.module).path, &code.file_of(module).path);
        if from != to {
            graph.entry(from.clone()).or_default().entry(to.clone()).or_insert(reference.line);
        }
    }
    graph
}

/// The arrows that are part of a circle, each with the shortest circle that it is part of. Without such an arrow no other
/// arrow begins to be part of one: their number falls with each cut.
pub fn circles(graph: &Graph) -> BTreeMap<(String, String), Vec<String>> {
    let mut found = BTreeMap::new();
    for (from, targets) in graph {
        for to in targets.keys() {
            if let Some(back) = shortest(graph, to, from) {
                found.insert((from.clone(), to.clone()), [vec![from.clone()], back].concat());
            }
        }
    }
    found
}

fn shortest(graph: &Graph, from: &str, to: &str) -> Option<Vec<String>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::new();
    let mut waiting = VecDeque::from([from]);
    while let Some(here) = waiting.pop_front() {
        if here == to {
            let mut path: Vec<&str> = std::iter::successors(Some(to), |at| before.get(at).copied()).collect();
            path.reverse();
            return Some(path.into_iter().map(str::to_owned).collect());
        }
        for next in graph.get(here).into_iter().flat_map(BTreeMap::keys) {
            if next != from && !before.contains_key(next.as_str()) {
                before.insert(next, here);
                waiting.push_back(next);
            }
        }
    }
    None
}

/// The arrows of circles as `debt.txt` lists them, each with the path of its circle.
pub fn findings(code: &Code) -> Counts {
    let graph = graph(code);
    let mut counts = Counts::default();
    for ((from, to), circle) in circles(&graph) {
        let steps: Vec<String> =
            circle.windows(2).map(|step| format!("{}:{}", step[0], graph[&step[0]][&step[1]])).collect();
        counts.add(&format!("{from} -> {to}"), 1, format!("{} → {from}", steps.join(" → ")));
    }
    counts
}
