//! Reads the crates with `syn`: modules, imports, items, and what each place of the code refers to. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use syn::{Attribute, Item, UseTree};

use crate::ROOTS;
use crate::references::{Function, Reference};
use crate::visitor::collect;

pub type Names = Vec<String>;

#[derive(Debug)]
pub struct File {
    /// Below the folder of the project.
    pub path: String,
    pub starts_with_a_promise: bool,
    pub lines_above_tests: usize,
}

#[derive(Debug)]
pub struct Import {
    name: String,
    path: Names,
    glob: bool,
}

#[derive(Debug, Default)]
pub struct Module {
    /// Begins with the name of the crate.
    pub path: Names,
    pub file: usize,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    items: BTreeSet<String>,
    pub imports: Vec<Import>,
}

/// Where a path leads: a module, and the rest of the path below it, which is empty for the module itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub module: usize,
    pub rest: Names,
}

#[derive(Debug, Default)]
pub struct Code {
    pub files: Vec<File>,
    pub modules: Vec<Module>,
    pub functions: Vec<Function>,
    pub references: Vec<Reference>,
    /// Types that other modules can use, with their module.
    pub types: Vec<(usize, String)>,
    /// String literals outside of functions and constants, with their module.
    pub loose_texts: Vec<(usize, String)>,
    roots: BTreeMap<String, usize>,
}

/// All crates of [`ROOTS`], read once.
pub static CODE: LazyLock<Code> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut reader = Reader::default();
    for (name, file) in ROOTS {
        reader.read_crate(name, file, &|path| std::fs::read_to_string(folder.join(path)).ok());
    }
    reader.finish()
});

/// Crates of files in memory.
pub fn example(crates: &[(&str, &str)], files: &[(&str, &str)]) -> Code {
    let text = |path: &str| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned());
    let mut reader = Reader::default();
    for (name, file) in crates {
        reader.read_crate(name, file, &text);
    }
    reader.finish()
}

#[derive(Default)]
struct Reader {
    code: Code,
    /// Items of modules, whose bodies are visited when all modules are known.
    bodies: Vec<(usize, Vec<Item>)>,
}

/// Reads a file by its path; `None` if there is none.
type Text<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Reader {
    fn read_crate(&mut self, name: &str, file: &str, text: Text<'_>) {
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
        let source = text(file).unwrap_or_else(|| panic!("ROOTS names {file}, which does not exist"));
        let module = self.read_file((file, &source), None, vec![name.to_owned()], (folder, text));
        self.code.roots.insert(name.to_owned(), module);
    }

    fn read_file(
        &mut self,
        (path, source): (&str, &str),
        parent: Option<usize>,
        names: Names,
        below: (&str, Text<'_>),
    ) -> usize {
        let syntax = syn::parse_file(source).unwrap_or_else(|error| panic!("{path}: {error}"));
        let tests = syntax.items.iter().filter(|item| is_test(attributes(item))).filter_map(first_line).min();
        self.code.files.push(File {
            path: path.to_owned(),
            starts_with_a_promise: source.starts_with("//! "),
            lines_above_tests: tests.map_or(source.lines().count(), |line| line - 1),
        });
        let file = self.code.files.len() - 1;
        self.read_module(file, parent, (names, syntax.items), below)
    }

    fn read_module(
        &mut self,
        file: usize,
        parent: Option<usize>,
        (path, items): (Names, Vec<Item>),
        (folder, text): (&str, Text<'_>),
    ) -> usize {
        self.code.modules.push(Module { path: path.clone(), file, parent, ..Module::default() });
        let here = self.code.modules.len() - 1;
        let mut rest = Vec::new();
        for item in items.into_iter().filter(|item| !is_test(attributes(item))) {
            if let Some(name) = name(&item) {
                if is_shared_type(&item) {
                    self.code.types.push((here, name.clone()));
                }
                self.code.modules[here].items.insert(name);
            }
            match item {
                Item::Mod(module) => {
                    let name = module.ident.to_string();
                    let names: Names = path.iter().cloned().chain([name.clone()]).collect();
                    let below = format!("{folder}/{name}");
                    let child = if let Some((_, items)) = module.content {
                        self.read_module(file, Some(here), (names, items), (&below, text))
                    } else {
                        let (path, source) = [format!("{below}.rs"), format!("{below}/mod.rs")]
                            .into_iter()
                            .find_map(|path| text(&path).map(|source| (path, source)))
                            .unwrap_or_else(|| panic!("module {below} has no file"));
                        self.read_file((&path, &source), Some(here), names, (&below, text))
                    };
                    self.code.modules[here].children.insert(name, child);
                }
                other => rest.push(other),
            }
        }
        self.bodies.push((here, rest));
        here
    }

    fn finish(mut self) -> Code {
        for (module, items) in &self.bodies {
            for item in items {
                // Those within functions count for the whole module.
                for tree in uses_of(item) {
                    flatten(&tree, &mut Vec::new(), &mut self.code.modules[*module].imports);
                }
            }
        }
        let bodies = std::mem::take(&mut self.bodies);
        for (module, items) in &bodies {
            collect(&mut self.code, *module, items);
        }
        self.code
    }
}

impl Code {
    /// Follows a path as the compiler does, through imports and re-exports. `None` for names of other crates and for local names.
    pub fn resolve(&self, from: usize, path: &[String]) -> Option<Place> {
        self.resolve_within(from, path, 0)
    }

    fn resolve_within(&self, from: usize, path: &[String], depth: usize) -> Option<Place> {
        let (first, rest) = path.split_first().filter(|_| depth < 12)?;
        match first.as_str() {
            "crate" => Some(self.walk(self.root_of(from), rest, depth)),
            "self" | "super" => Some(self.walk(from, path, depth)),
            _ => self.named(from, first, (rest, depth)).or_else(|| {
                let root = self.roots.get(first)?;
                Some(self.walk(*root, rest, depth))
            }),
        }
    }

    /// The first module of the crate of a module.
    pub fn root_of(&self, module: usize) -> usize {
        self.roots[&self.modules[module].path[0]]
    }

    /// Whether a module is another one or below it.
    pub fn is_within(&self, module: usize, outer: usize) -> bool {
        self.modules[module].path.starts_with(&self.modules[outer].path)
    }

    fn walk(&self, at: usize, path: &[String], depth: usize) -> Place {
        let Some((first, rest)) = path.split_first() else { return Place { module: at, rest: Vec::new() } };
        match first.as_str() {
            "self" => self.walk(at, rest, depth),
            "super" => self.walk(self.modules[at].parent.unwrap_or(at), rest, depth),
            _ => self
                .named(at, first, (rest, depth))
                .unwrap_or_else(|| Place { module: at, rest: path.to_vec() }),
        }
    }

    fn named(&self, at: usize, first: &String, (rest, depth): (&[String], usize)) -> Option<Place> {
        let module = &self.modules[at];
        let item = module.items.contains(first);
        if let Some(child) = module.children.get(first)
            && (!item || !rest.is_empty())
        {
            return Some(self.walk(*child, rest, depth));
        }
        if item {
            let rest = [std::slice::from_ref(first), rest].concat();
            return Some(Place { module: at, rest });
        }
        let imports = module.imports.iter().filter(|import| !import.glob && import.name == *first);
        let imported =
            imports.filter(|import| import.path != std::slice::from_ref(first)).find_map(|import| {
                let path = [import.path.as_slice(), rest].concat();
                self.resolve_within(at, &path, depth + 1)
            });
        imported.or_else(|| {
            module.imports.iter().filter(|import| import.glob).find_map(|import| {
                let target = self.resolve_within(at, &import.path, depth + 1)?;
                let elsewhere = target.rest.is_empty() && target.module != at && depth < 12;
                elsewhere.then(|| self.named(target.module, first, (rest, depth + 1)))?
            })
        })
    }

    /// `domain::sink::store::put`, for messages and for the tables of the rules.
    pub fn name_of(&self, place: &Place) -> String {
        let module = &self.modules[place.module].path;
        let own = usize::from(module.first().is_some_and(|name| name == "actchain"));
        [&module[own..], place.rest.as_slice()].concat().join("::")
    }

    pub fn file_of(&self, module: usize) -> &File {
        &self.files[self.modules[module].file]
    }

    /// `src/domain/sink/store.rs:12`
    pub fn at(&self, module: usize, line: usize) -> String {
        format!("{}:{line}", self.file_of(module).path)
    }
}

/// Whether something exists only in tests.
pub fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

fn first_line(item: &Item) -> Option<usize> {
    use syn::spanned::Spanned as _;
    matches!(item, Item::Mod(_)).then(|| item.span().start().line)
}

pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(it) => &it.attrs,
        Item::Enum(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Macro(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Static(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Trait(it) => &it.attrs,
        Item::Type(it) => &it.attrs,
        Item::Use(it) => &it.attrs,
        _ => &[],
    }
}

/// The name under which an item is found in its module.
fn name(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(it) => &it.ident,
        Item::Enum(it) => &it.ident,
        Item::Fn(it) => &it.sig.ident,
        Item::Macro(it) => it.ident.as_ref()?,
        Item::Static(it) => &it.ident,
        Item::Struct(it) => &it.ident,
        Item::Trait(it) => &it.ident,
        Item::Type(it) => &it.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// Whether an item is a type that other modules can name.
fn is_shared_type(item: &Item) -> bool {
    let visibility = match item {
        Item::Enum(it) => &it.vis,
        Item::Struct(it) => &it.vis,
        Item::Trait(it) => &it.vis,
        Item::Type(it) => &it.vis,
        _ => return false,
    };
    !matches!(visibility, syn::Visibility::Inherited)
}

/// The `use` declarations of an item, also those within functions.
fn uses_of(item: &Item) -> Vec<UseTree> {
    #[derive(Default)]
    struct Uses(Vec<UseTree>);
    impl<'ast> syn::visit::Visit<'ast> for Uses {
        fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
            self.0.push(item.tree.clone());
        }
    }
    let mut uses = Uses::default();
    syn::visit::Visit::visit_item(&mut uses, item);
    uses.0
}

/// One import per name of a `use` declaration.
pub fn flatten(tree: &UseTree, before: &mut Names, found: &mut Vec<Import>) {
    let mut import = |name: String, last: Option<String>, glob| {
        let path = before.iter().cloned().chain(last).collect();
        found.push(Import { name, path, glob });
    };
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, found);
            before.pop();
        }
        UseTree::Name(name) if name.ident == "self" => {
            import(before.last().cloned().unwrap_or_default(), None, false);
        }
        UseTree::Rename(name) if name.ident == "self" => import(name.rename.to_string(), None, false),
        UseTree::Name(name) => import(name.ident.to_string(), Some(name.ident.to_string()), false),
        UseTree::Rename(name) => import(name.rename.to_string(), Some(name.ident.to_string()), false),
        UseTree::Glob(_) => import(String::new(), None, true),
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, before, found)),
    }
}

impl Import {
    pub fn path(&self) -> &[String] {
        &self.path
    }
}
