//! The paths that a file names: its `use` declarations, and the paths in its code.

/// One name of a `use` declaration.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    /// The path without a final `self`; for a glob, the path before the star.
    pub path: Vec<String>,
    /// What it is called in this file; `*` for a glob.
    pub name: String,
    /// The declaration is `pub use` or `pub(crate) use`.
    pub is_public: bool,
}

/// The imports of a file's code and the code without them.
pub fn take_imports(code: &str) -> (Vec<Import>, String) {
    let mut imports = Vec::new();
    let mut rest = String::new();
    let mut at = 0;
    while let Some(start) = next_use(code, at) {
        let end = code[start..].find(';').map_or(code.len(), |position| start + position);
        let before = code[at..start].trim_end();
        let is_public = before.rsplit(['\n', ';', '}', '{']).next().unwrap().contains("pub");
        add_tree(&[], &code[start + "use".len()..end], is_public, &mut imports);
        rest.push_str(before);
        rest.push('\n');
        at = end;
    }
    rest.push_str(&code[at..]);
    (imports, rest)
}

/// Where the next `use` declaration begins. `use<'a>` in a type is none.
fn next_use(code: &str, from: usize) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code[from..]
        .match_indices("use ")
        .map(|(position, _)| from + position)
        .find(|&position| !code[..position].ends_with(is_part))
}

/// Adds the imports of `a::{b, c::d as e}` below `prefix`.
fn add_tree(prefix: &[String], tree: &str, is_public: bool, imports: &mut Vec<Import>) {
    let (head, group) = match tree.split_once('{') {
        Some((head, group)) => (head, Some(group.rsplit_once('}').map_or(group, |(group, _)| group))),
        None => (tree, None),
    };
    let (head, alias) =
        head.split_once(" as ").map_or((head, None), |(head, alias)| (head, Some(alias.trim())));
    let mut path = prefix.to_vec();
    path.extend(head.split("::").map(str::trim).filter(|segment| !segment.is_empty()).map(str::to_owned));
    if let Some(group) = group {
        for part in top_level_parts(group) {
            add_tree(&path, part, is_public, imports);
        }
        return;
    }
    let Some(last) = path.last().cloned() else { return };
    if last == "*" || (last == "self" && path.len() > 1) {
        path.pop();
    }
    let own_name = if last == "*" { "*" } else { path.last().unwrap() };
    imports.push(Import { name: alias.unwrap_or(own_name).to_owned(), path, is_public });
}

/// The parts between the commas that are in no inner group.
fn top_level_parts(group: &str) -> Vec<&str> {
    let mut depth = 0;
    let is_border = |c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    };
    group.split(is_border).filter(|part| !part.trim().is_empty()).collect()
}

/// Every `a::b` in code, as segments.
pub fn paths(code: &str) -> Vec<Vec<String>> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut paths = Vec::new();
    for word in code.split(|c| !is_part(c)) {
        let path: Vec<String> = word.split("::").map(str::to_owned).collect();
        if path.len() > 1 && !path[0].is_empty() {
            paths.push(path.into_iter().filter(|segment| !segment.is_empty()).collect());
        }
    }
    paths
}

#[test]
fn imports_are_read() {
    let code = "pub(crate) use a::b;\nfn f() -> impl X + use<'a> {}\nuse crate::{\n    c::{self, D as E},\n    g::*,\n};\nlet because = 1;";
    let (imports, rest) = take_imports(code);
    let shown: Vec<_> = imports.iter().map(|i| (i.path.join("::"), i.name.as_str(), i.is_public)).collect();
    let import = |path: &str, name, is_public| (path.to_owned(), name, is_public);
    assert_eq!(
        shown,
        [
            import("a::b", "b", true),
            import("crate::c", "c", false),
            import("crate::c::D", "E", false),
            import("crate::g", "*", false)
        ]
    );
    assert!(rest.contains("fn f()") && rest.contains("because") && !rest.contains("crate::"));
}

#[test]
fn paths_in_code_are_read() {
    let found = paths("let x: crate::net::Bell = net::connect::<u8>(a.b, <T as U>::V);");
    assert_eq!(
        found.iter().map(|path| path.join("::")).collect::<Vec<_>>(),
        ["crate::net::Bell", "net::connect"]
    );
}
