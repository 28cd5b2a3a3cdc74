//! Visits the bodies of all items and collects what they refer to: paths, calls with arguments, method calls, and texts.
//! Macros are parsed as lists of expressions; if that fails, they are read token by token.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::TokenTree;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{Expr, ImplItem, Item, Signature, TraitItem, Visibility};

use crate::code::{Code, Names, Place, flatten, is_test};
use crate::references::{Arguments, ClosureId, Function, Kind, MethodCall, Reference};
use crate::signatures::{nested_result, parameter};
use crate::syntax::{Scan, locals, names, receiver, type_path, variable, without_references};

pub fn collect(code: &mut Code, module: usize, items: &[Item]) {
    let mut collector = Collector {
        code,
        module,
        function: None,
        of: None,
        of_trait: None,
        locals: BTreeSet::new(),
        shadowed: BTreeSet::new(),
        closures: Vec::new(),
        bound_closures: BTreeMap::new(),
    };
    items.iter().for_each(|item| collector.visit_item(item));
}

struct Collector<'a> {
    code: &'a mut Code,
    module: usize,
    function: Option<usize>,
    /// The type that `Self` means.
    of: Option<Names>,
    of_trait: Option<Names>,
    /// Variables of the function.
    locals: BTreeSet<String>,
    /// Variables that hide a parameter or an audited connection of the same name.
    shadowed: BTreeSet<String>,
    /// The closures around the present place, with their parameters.
    closures: Vec<(ClosureId, BTreeSet<String>)>,
    bound_closures: BTreeMap<String, ClosureId>,
}

impl Collector<'_> {
    fn refer(&mut self, mut path: Names, line: usize, kind: Kind) {
        if path.first().is_some_and(|first| first == "Self")
            && let Some(of) = &self.of
        {
            path.splice(..1, of.iter().cloned());
        }
        let (module, function) = (self.module, self.function);
        self.code.references.push(Reference { module, function, line, path, kind });
    }

    fn place(&self, name: String) -> Place {
        let of = self.of.as_ref().map(|of| {
            let unknown = || Place { module: self.module, rest: of.clone() };
            self.code.resolve(self.module, of).unwrap_or_else(unknown)
        });
        let mut place = of.unwrap_or(Place { module: self.module, rest: Vec::new() });
        place.rest.push(name);
        place
    }

    /// Visits as part of a function that it registers. A function within a function counts as part of the outer one.
    fn within(&mut self, function: Function, visit: impl FnOnce(&mut Self)) {
        self.code.functions.push(function);
        if self.function.is_some() {
            return visit(self);
        }
        self.function = Some(self.code.functions.len() - 1);
        visit(self);
        self.function = None;
        self.locals.clear();
        self.shadowed.clear();
        self.bound_closures.clear();
    }

    fn function(
        &mut self,
        (seen, signature): (Option<&Visibility>, &Signature),
        visit: impl FnOnce(&mut Self),
    ) {
        let parameters = signature.inputs.iter().map(parameter).collect();
        let function = Function {
            place: self.place(signature.ident.to_string()),
            written_in: self.module,
            visible_in: self.visible_in(seen),
            line: signature.ident.span().start().line,
            parameters,
            nested_result: nested_result(&signature.output),
            is_method: signature.receiver().is_some(),
            is_async: signature.asyncness.is_some(),
            of_trait: self.of_trait.clone(),
            ..Function::empty()
        };
        self.within(function, visit);
    }

    /// A method of a trait, which has no visibility of its own, counts as visible everywhere.
    fn visible_in(&self, seen: Option<&Visibility>) -> usize {
        let root = self.code.root_of(self.module);
        match seen {
            Some(Visibility::Inherited) => self.module,
            Some(Visibility::Restricted(within)) => {
                self.code.resolve(self.module, &names(&within.path)).map_or(root, |place| place.module)
            }
            Some(Visibility::Public(_)) | None => root,
        }
    }

    fn constant(&mut self, name: &proc_macro2::Ident, visit: impl FnOnce(&mut Self)) {
        let place = self.place(name.to_string());
        let line = name.span().start().line;
        self.within(Function { place, written_in: self.module, line, ..Function::empty() }, visit);
    }

    fn current(&mut self) -> Option<&mut Function> {
        self.function.map(|at| &mut self.code.functions[at])
    }

    fn text(&mut self, text: String) {
        match self.current() {
            Some(function) => function.texts.push(text),
            None => self.code.loose_texts.push((self.module, text)),
        }
    }

    fn is_audited(&self, expression: &Expr) -> bool {
        let audited = self.function.map(|at| &self.code.functions[at].audited);
        match expression {
            Expr::MethodCall(call) => call.method == "connection" && call.args.is_empty(),
            Expr::Path(path) => path.path.get_ident().map(ToString::to_string).is_some_and(|name| {
                audited.is_some_and(|names| names.contains(&name)) && !self.shadowed.contains(&name)
            }),
            _ => false,
        }
    }

    fn arguments(&self, arguments: &Punctuated<Expr, syn::Token![,]>) -> Arguments {
        let plain: Vec<&Expr> = arguments.iter().map(without_references).collect();
        let names: Vec<Option<String>> = plain.iter().map(|expression| variable(expression)).collect();
        let closure = |(expression, name): (&&Expr, &Option<String>)| match expression {
            Expr::Closure(closure) => Some(self.closure_id(closure)),
            _ => self.bound_closures.get(name.as_ref()?).copied(),
        };
        let around = |name: &String| self.closures.iter().rev().find(|(_, names)| names.contains(name));
        Arguments {
            closures: plain.iter().zip(&names).map(closure).collect(),
            audited: plain.iter().any(|expression| self.is_audited(expression)),
            called: None,
            within: names.iter().flatten().find_map(around).map(|(id, _)| *id),
            variables: names
                .into_iter()
                .map(|name| name.filter(|name| !self.shadowed.contains(name)))
                .collect(),
        }
    }

    fn closure_id(&self, closure: &syn::ExprClosure) -> ClosureId {
        let start = closure.span().start();
        (self.module, start.line, start.column)
    }

    /// Notes variables that hide others of the same name.
    fn shadow(&mut self, pattern: &syn::Pat) -> BTreeSet<String> {
        let names = locals(|found| found.visit_pat(pattern));
        for name in &names {
            self.shadowed.insert(name.clone());
            self.bound_closures.remove(name);
            for (_, parameters) in &mut self.closures {
                parameters.remove(name);
            }
        }
        names
    }

    fn found(&mut self, path: Names, line: usize) {
        if path.len() > 1 || path.first().is_some_and(|name| name != "self" && !self.locals.contains(name)) {
            self.refer(path, line, Kind::Path);
        }
    }
}

impl<'ast> Visit<'ast> for Collector<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut imports = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut imports);
        let kind = match item.vis {
            Visibility::Inherited => Kind::Import,
            _ => Kind::ReExport,
        };
        for import in imports {
            self.refer(import.path().to_vec(), item.span().start().line, kind.clone());
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let before = (self.of.take(), self.of_trait.take());
        self.of = type_path(&item.self_ty);
        self.of_trait = item.trait_.as_ref().map(|(_, path, _)| names(path));
        visit::visit_item_impl(self, item);
        (self.of, self.of_trait) = before;
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        let before = self.of.replace(vec![item.ident.to_string()]);
        visit::visit_item_trait(self, item);
        self.of = before;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function((Some(&item.vis), &item.sig), |this| {
            this.locals.extend(locals(|found| found.visit_item_fn(item)));
            visit::visit_item_fn(this, item);
        });
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        match item {
            ImplItem::Fn(method) if is_test(&method.attrs) => {}
            ImplItem::Fn(method) => {
                let seen = self.of_trait.is_none().then_some(&method.vis);
                self.function((seen, &method.sig), |this| {
                    this.locals.extend(locals(|found| found.visit_impl_item_fn(method)));
                    visit::visit_impl_item_fn(this, method);
                });
            }
            ImplItem::Const(constant) => {
                self.constant(&constant.ident, |this| visit::visit_impl_item_const(this, constant));
            }
            other => visit::visit_impl_item(self, other),
        }
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        match item {
            TraitItem::Fn(method) => self.function((None, &method.sig), |this| {
                this.locals.extend(locals(|found| found.visit_trait_item_fn(method)));
                visit::visit_trait_item_fn(this, method);
            }),
            other => visit::visit_trait_item(self, other),
        }
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.constant(&item.ident, |this| visit::visit_item_const(this, item));
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.constant(&item.ident, |this| visit::visit_item_static(this, item));
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        visit::visit_local(self, local);
        let init = local.init.as_ref().map(|init| without_references(&init.expr));
        if let (Some(init), syn::Pat::Ident(name)) = (init, &local.pat)
            && variable(init).is_some_and(|init| name.ident == init)
        {
            // `let connection = &mut *connection;`
            return;
        }
        let audited = init.is_some_and(|init| self.is_audited(init));
        for name in self.shadow(&local.pat) {
            if let Some(Expr::Closure(closure)) = init {
                self.bound_closures.insert(name, self.closure_id(closure));
            } else if let Some(function) = self.current().filter(|_| audited) {
                function.audited.insert(name.clone());
                self.shadowed.remove(&name);
            }
        }
    }

    fn visit_expr_let(&mut self, expression: &'ast syn::ExprLet) {
        self.shadow(&expression.pat);
        visit::visit_expr_let(self, expression);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        self.shadow(&arm.pat);
        visit::visit_arm(self, arm);
    }

    fn visit_expr_for_loop(&mut self, expression: &'ast syn::ExprForLoop) {
        self.shadow(&expression.pat);
        visit::visit_expr_for_loop(self, expression);
    }

    fn visit_expr_closure(&mut self, closure: &'ast syn::ExprClosure) {
        let shadowed = self.shadowed.clone();
        let around = self.closures.clone();
        let names: Vec<_> = closure.inputs.iter().map(|input| self.shadow(input)).collect();
        self.closures.push((self.closure_id(closure), names.into_iter().flatten().collect()));
        visit::visit_expr_closure(self, closure);
        (self.shadowed, self.closures) = (shadowed, around);
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        let Expr::Path(function) = &*call.func else { return visit::visit_expr_call(self, call) };
        let called = function.path.get_ident().and_then(|name| self.bound_closures.get(&name.to_string()));
        let arguments = Arguments { called: called.copied(), ..self.arguments(&call.args) };
        self.refer(names(&function.path), function.path.span().start().line, Kind::Call(arguments));
        if let Some(of) = &function.qself {
            self.visit_qself(of);
        }
        function.path.segments.iter().for_each(|segment| self.visit_path_segment(segment));
        call.args.iter().for_each(|argument| self.visit_expr(argument));
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let method = MethodCall {
            name: call.method.to_string(),
            line: call.method.span().start().line,
            receiver: receiver(&call.receiver),
            arguments: self.arguments(&call.args),
        };
        if let Some(function) = self.current() {
            function.method_calls.push(method);
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.found(names(path), path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_expr_async(&mut self, block: &'ast syn::ExprAsync) {
        self.refer(vec!["async".into()], block.span().start().line, Kind::Path);
        visit::visit_expr_async(self, block);
    }

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        self.text(text.value());
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.visit_path(&item.path);
        match item.parse_body_with(Punctuated::<Expr, syn::Token![,]>::parse_terminated) {
            Ok(expressions) => expressions.iter().for_each(|expression| Visit::visit_expr(self, expression)),
            Err(_) => {
                let mut scan = Scan::default();
                scan.tokens(item.tokens.clone());
                scan.paths.into_iter().for_each(|(path, line)| self.found(path, line));
                scan.texts.into_iter().for_each(|text| self.text(text));
            }
        }
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        // `#[serde(with = "crate::platform::clock::rfc3339")]`
        let syn::Meta::List(list) = &attribute.meta else { return };
        for token in list.tokens.clone() {
            if let TokenTree::Literal(literal) = token
                && let syn::Lit::Str(text) = syn::Lit::new(literal)
                && text.value().contains("::")
                && let Ok(path) = text.parse::<syn::Path>()
            {
                self.refer(names(&path), attribute.span().start().line, Kind::Path);
            }
        }
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {
        // Who may use something is no use of it.
    }
}
