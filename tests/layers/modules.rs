//! Finds the file that defines what a path names, through re-exports and imports.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::{Import, paths, take_imports};
use super::source::{SourceFile, identifiers};

type ModulePath = Vec<String>;

/// The modules of a crate, without test code.
pub struct Modules(BTreeMap<ModulePath, Module>);

struct Module {
    file: String,
    items: BTreeSet<String>,
    imports: Vec<Import>,
    paths: Vec<Vec<String>>,
    /// All identifiers outside of imports.
    names: BTreeSet<String>,
}

/// What a path names.
#[derive(Debug, PartialEq)]
pub enum Target {
    /// An item and the module that defines it.
    Item(ModulePath, String),
    Module(ModulePath),
    /// Another crate, or a local name.
    Outside,
    /// A path of this crate that leads to no item.
    Unknown,
}

/// Longer chains of imports are taken for a loop.
const MAX_STEPS: usize = 32;

/// (file that uses, file that is used) -> the names that it uses.
pub type Edges = BTreeMap<(String, String), BTreeSet<String>>;

impl Modules {
    pub fn new(files: &[SourceFile]) -> Self {
        let production = files.iter().filter(|file| !file.is_test);
        Self(production.map(|file| (file.module(), Module::new(file))).collect())
    }

    /// Which file uses what of which other one.
    pub fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        for (path, module) in &self.0 {
            let imports = module.imports.iter().filter(|import| !module.only_passes_on(import));
            let imported = imports.map(|import| self.import_target(path, import));
            let named = module.paths.iter().map(|named| self.resolve(path, named, MAX_STEPS));
            for target in imported.chain(named) {
                if let Target::Item(definer, name) = target
                    && definer != *path
                {
                    let edge = (module.file.clone(), self.0[&definer].file.clone());
                    edges.entry(edge).or_default().insert(name);
                }
            }
        }
        edges
    }

    /// The paths that begin in this crate and lead to nothing that was found. There must be none.
    fn unknown_paths(&self) -> Vec<String> {
        let mut unknown = Vec::new();
        for (path, module) in &self.0 {
            let paths = module.imports.iter().map(|import| &import.path).chain(&module.paths);
            for named in paths.filter(|named| self.resolve(path, named, MAX_STEPS) == Target::Unknown) {
                unknown.push(format!("{}: {}", module.file, named.join("::")));
            }
        }
        unknown
    }

    /// A glob uses its module.
    fn import_target(&self, from: &ModulePath, import: &Import) -> Target {
        match self.resolve(from, &import.path, MAX_STEPS) {
            Target::Module(module) if import.name == "*" => Target::Item(module, "*".to_owned()),
            target => target,
        }
    }

    /// What `path` names in the module `from`.
    fn resolve(&self, from: &ModulePath, path: &[String], steps: usize) -> Target {
        let (mut at, mut rest) = (from.clone(), path);
        match path[0].as_str() {
            "crate" | "ftx" => (at, rest) = (ModulePath::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            // The name of another crate, of a child, or of something imported.
            _ => return self.walk(from, path, steps).unwrap_or(Target::Outside),
        }
        self.walk(&at, rest, steps).unwrap_or(Target::Unknown)
    }

    /// What `path` names below the module `at`; `None` if `at` has no such name.
    fn walk(&self, at: &ModulePath, path: &[String], steps: usize) -> Option<Target> {
        let Some((name, rest)) = path.split_first() else { return Some(Target::Module(at.clone())) };
        let module = self.0.get(at)?;
        let steps = steps.checked_sub(1)?;
        let child: ModulePath = at.iter().chain([name]).cloned().collect();
        // A function may be called like a module; a path that goes on means the module.
        if self.0.contains_key(&child) && !rest.is_empty() {
            return self.walk(&child, rest, steps).or(Some(Target::Unknown));
        }
        if module.items.contains(name) {
            return Some(Target::Item(at.clone(), name.clone()));
        }
        for import in
            module.imports.iter().filter(|import| import.name == *name && import.path != [name.clone()])
        {
            match self.resolve(at, &import.path, steps) {
                Target::Module(imported) if imported == *at => (),
                Target::Module(imported) => return self.walk(&imported, rest, steps),
                target => return Some(target),
            }
        }
        if self.0.contains_key(&child) {
            return Some(Target::Module(child));
        }
        let mut globs = module.imports.iter().filter(|import| import.name == "*");
        globs.find_map(|glob| match self.resolve(at, &glob.path, steps) {
            Target::Module(imported) if imported != *at => self.walk(&imported, path, steps),
            _ => None,
        })
    }
}

impl Module {
    fn new(file: &SourceFile) -> Self {
        let (imports, rest) = take_imports(&file.production.join("\n"));
        let items = file.production.iter().filter_map(|line| item_name(line)).map(str::to_owned).collect();
        let is_declaration = |line: &&str| line.starts_with("mod ") || line.starts_with("pub mod ");
        let code = rest.lines().filter(|line| !is_declaration(line));
        let names = code.flat_map(identifiers).map(str::to_owned).collect();
        Self { file: file.path.clone(), items, imports, paths: paths(&rest), names }
    }

    /// A `pub use` of something that the file itself does not name.
    fn only_passes_on(&self, import: &Import) -> bool {
        import.is_public && !self.names.contains(&import.name)
    }
}

/// The name of the item that a line of code begins, if it begins in the first column.
pub fn item_name(line: &str) -> Option<&str> {
    const KINDS: [&str; 8] = ["fn", "struct", "enum", "trait", "type", "const", "static", "union"];
    let mut words =
        line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '!').filter(|word| !word.is_empty());
    if line.starts_with(|c: char| !c.is_alphabetic()) {
        return None;
    }
    let mut word = words.next()?;
    while matches!(word, "pub" | "crate" | "super" | "in" | "unsafe" | "async" | "extern") {
        word = words.next()?;
    }
    let name = words.next()?;
    match word {
        "const" if name == "fn" => words.next(),
        "macro_rules!" => Some(name),
        kind if KINDS.contains(&kind) => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::{sources, tree};
    use super::*;

    #[test]
    fn an_import_leads_to_the_file_that_defines_its_item() {
        let files = tree([
            ("src/lib.rs", "pub mod net;\npub mod top;\n"),
            (
                "src/net/mod.rs",
                "mod bell;\nmod line;\npub use bell::{Bell as Token, ring};\npub use line::line;\npub struct NetError;\n",
            ),
            ("src/net/bell.rs", "use super::NetError;\npub struct Bell;\npub const fn ring() {}\n"),
            ("src/net/line.rs", "pub fn line() {}\n"),
            (
                "src/top.rs",
                "use std::io;\nuse crate::net::{self, Token};\nfn f() { net::ring(); crate::net::line::line(); io::x() }\n",
            ),
        ]);
        let edges = Modules::new(&files).edges();
        let shown: Vec<_> =
            edges.iter().map(|((from, to), names)| (from.as_str(), to.as_str(), names.len())).collect();
        assert_eq!(
            shown,
            [
                ("src/net/bell.rs", "src/net/mod.rs", 1),
                ("src/top.rs", "src/net/bell.rs", 2),
                ("src/top.rs", "src/net/line.rs", 1)
            ]
        );
    }

    #[test]
    fn every_path_of_this_crate_leads_to_an_item() {
        assert_eq!(Modules::new(&sources("src")).unknown_paths(), Vec::<String>::new());
        let files = tree([
            ("src/lib.rs", "mod a;\nuse a::X;\nuse std::io;\n"),
            ("src/a.rs", "use crate::b::C;\nuse super::D;\n"),
        ]);
        assert_eq!(
            Modules::new(&files).unknown_paths(),
            ["src/lib.rs: a::X", "src/a.rs: crate::b::C", "src/a.rs: super::D"]
        );
    }

    #[test]
    fn items_are_recognized() {
        assert_eq!(item_name("pub(crate) const fn pause() {"), Some("pause"));
        assert_eq!(item_name("pub const LIMIT: u8 = 1;"), Some("LIMIT"));
        assert_eq!(item_name("macro_rules! step {"), Some("step"));
        assert_eq!(item_name("impl Bell {"), None);
        assert_eq!(item_name("    fn method() {"), None);
    }
}
