//! What says how a source is built, where nobody has written it: a `Dockerfile` for each language.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use plimsoll_model::image::ImageRef;
use plimsoll_model::source::Language;

/// The longest file that a recipe looks into.
pub(crate) const LARGEST_TEXT: u64 = 256 << 10;

/// What a recipe is called in the context that it is added to.
pub const NAME: &str = "Dockerfile.plimsoll";

/// Files that recipes look into.
const READ: [&str; 4] = ["package.json", "Cargo.toml", "Procfile", "requirements.txt"];

/// Whoever what was built runs as: nobody in particular.
const NOBODY: &str = "USER 65534:65534\n";

/// What lies at the top of a source, as far as recipes are concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Root {
    /// Files and directories.
    pub names: BTreeSet<String>,
    /// The text of those that recipes look into.
    pub texts: BTreeMap<String, String>,
}

/// How a source is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Of which language it is.
    pub language: Language,
    /// The image that it builds on.
    pub base: ImageRef,
    /// The text of the `Dockerfile`.
    pub dockerfile: String,
}

/// Why there is no recipe for a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRecipe {
    /// Nothing in it tells its language.
    #[error(
        "it has no Dockerfile, and nothing in it says which language it is in: write one, or give `language`"
    )]
    UnknownLanguage,
    /// Nothing in it tells what is to be started.
    #[error(
        "it has no {looked}, so nothing says what to start: add one, or a Procfile with a line `web: COMMAND`"
    )]
    NothingToStart {
        /// What was looked for.
        looked: &'static str,
    },
    /// A file that cannot be understood.
    #[error("{file} cannot be understood: {why}")]
    Broken {
        /// Which.
        file: &'static str,
        /// Why.
        why: String,
    },
}

/// Whether a file is one that recipes look into.
pub(crate) fn is_read(path: &str) -> bool {
    READ.contains(&path)
}

impl Root {
    /// Notes that something lies there.
    pub(crate) fn note(&mut self, path: &str) {
        let name = path.split('/').next().unwrap_or(path);
        if !self.names.contains(name) {
            self.names.insert(name.to_owned());
        }
    }

    /// That of a directory of this machine.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(directory: &Path) -> std::io::Result<Self> {
        let mut root = Self::default();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if is_read(&name) && entry.metadata()?.len() <= LARGEST_TEXT {
                let text = std::fs::read(entry.path())?;
                root.texts.insert(name.clone(), String::from_utf8_lossy(&text).into_owned());
            }
            root.names.insert(name);
        }
        Ok(root)
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    fn has_any(&self, ending: &str) -> bool {
        self.names.iter().any(|name| name.ends_with(ending))
    }

    /// The first of these that there is.
    fn first<'a>(&self, names: &[&'a str]) -> Option<&'a str> {
        names.iter().copied().find(|name| self.has(name))
    }

    /// The command that a `Procfile` names for the web.
    fn procfile(&self) -> Option<String> {
        let lines = self.texts.get("Procfile")?.lines();
        lines
            .filter_map(|line| line.split_once(':'))
            .find(|(kind, _)| kind.trim() == "web")
            .map(|(_, command)| shell(command))
    }

    /// The language that the files say.
    fn language(&self) -> Option<Language> {
        let says = |names: &[&str]| names.iter().any(|name| self.has(name));
        [
            (says(&["go.mod"]), Language::Go),
            (says(&["Cargo.toml"]), Language::Rust),
            (says(&["pom.xml"]) || self.has_any(".java"), Language::Java),
            (says(&["package.json"]), Language::Node),
            (says(&["composer.json", "index.php"]), Language::Php),
            (says(&["requirements.txt", "pyproject.toml"]) || self.has_any(".py"), Language::Python),
            (says(&["Gemfile", "config.ru"]) || self.has_any(".rb"), Language::Ruby),
            (self.has_any(".js"), Language::Node),
            (says(&["index.html"]), Language::Static),
        ]
        .into_iter()
        .find_map(|(is_it, language)| is_it.then_some(language))
    }
}

/// The image that a language builds on where nobody names another one.
///
/// # Panics
/// Never: the names are valid.
pub fn usual_base(language: Language) -> ImageRef {
    let image = match language {
        Language::Go => "golang:1",
        Language::Java => "maven:3-eclipse-temurin-21",
        Language::Node => "node:22-slim",
        Language::Php => "php:8-cli",
        Language::Python => "python:3-slim",
        Language::Ruby => "ruby:3-slim",
        Language::Rust => "rust:1-slim",
        Language::Static => "busybox:stable",
    };
    format!("docker.io/library/{image}").parse().expect("a valid image")
}

/// Writes the recipe of a source.
///
/// # Errors
/// [`NoRecipe`].
pub fn write(root: &Root, language: Option<Language>, base: Option<&ImageRef>) -> Result<Recipe, NoRecipe> {
    let language = language.or_else(|| root.language()).ok_or(NoRecipe::UnknownLanguage)?;
    let base = base.cloned().unwrap_or_else(|| usual_base(language));
    let body = match language {
        Language::Go => go(&base),
        Language::Java => java(root, &base)?,
        Language::Node => node(root, &base)?,
        Language::Php => php(root, &base),
        Language::Python => python(root, &base)?,
        Language::Ruby => ruby(root, &base)?,
        Language::Rust => rust(root, &base)?,
        Language::Static => files(&base),
    };
    let dockerfile = format!("# Written for {language}. A `Dockerfile` of your own takes its place.\n{body}");
    Ok(Recipe { language, base, dockerfile })
}

/// A command line as JSON, so that signals reach the program itself.
fn exec(parts: &[&str]) -> String {
    format!("CMD {}\n", serde_json::json!(parts))
}

/// A command of the shell, which hands its place on.
fn shell(command: &str) -> String {
    exec(&["/bin/sh", "-c", &format!("exec {}", command.trim())])
}

fn python(root: &Root, base: &ImageRef) -> Result<String, NoRecipe> {
    let install = if root.has("requirements.txt") {
        "COPY requirements.txt ./\nRUN pip install --no-cache-dir -r requirements.txt\n"
    } else {
        ""
    };
    // A project that is a package of its own is installed as one.
    let package = if root.has("pyproject.toml") { "RUN pip install --no-cache-dir .\n" } else { "" };
    let looked = "main.py, app.py, server.py";
    let entry = root.first(&["main.py", "app.py", "server.py"]);
    let command = root.procfile().or_else(|| entry.map(|entry| exec(&["python3", "-u", entry])));
    let command = command.ok_or(NoRecipe::NothingToStart { looked })?;
    Ok(format!("FROM {base}\nWORKDIR /app\n{install}COPY . .\n{package}{NOBODY}{command}"))
}

fn node(root: &Root, base: &ImageRef) -> Result<String, NoRecipe> {
    let broken = |why: serde_json::Error| NoRecipe::Broken { file: "package.json", why: why.to_string() };
    let package: serde_json::Value = match root.texts.get("package.json") {
        Some(text) => serde_json::from_str(text).map_err(broken)?,
        None => serde_json::Value::Null,
    };
    let has = |key: &str| package[key].as_object().is_some_and(|it| !it.is_empty());
    let install = match root.first(&["package-lock.json", "npm-shrinkwrap.json"]) {
        Some(lock) => format!("COPY package.json {lock} ./\nRUN npm ci\n"),
        None if has("dependencies") || has("devDependencies") => {
            "COPY package.json ./\nRUN npm install\n".to_owned()
        }
        None => String::new(),
    };
    let build = if package["scripts"]["build"].is_string() { "RUN npm run build\n" } else { "" };
    let start = package["scripts"]["start"].as_str();
    let main = package["main"].as_str().filter(|main| !main.is_empty());
    let entry = main.or_else(|| root.first(&["server.js", "index.js", "main.js", "app.js"]));
    let command = root.procfile().or_else(|| match (start, entry) {
        // What npm starts does not hear the signals that npm gets.
        (Some(start), _) => Some(format!("ENV PATH=/app/node_modules/.bin:$PATH\n{}", shell(start))),
        (None, Some(entry)) => Some(exec(&["node", entry])),
        (None, None) => None,
    });
    let looked = "server.js, index.js, main.js, app.js or script `start`";
    let command = command.ok_or(NoRecipe::NothingToStart { looked })?;
    Ok(format!(
        "FROM {base}\nWORKDIR /app\n{install}COPY . .\n{build}ENV NODE_ENV=production\n{NOBODY}{command}"
    ))
}

fn go(base: &ImageRef) -> String {
    let build = "ENV CGO_ENABLED=0 GOFLAGS=-buildvcs=false\nRUN mkdir -p /out /etc/ssl/certs && go build -o /out/app .\n";
    // It needs nothing but itself, and those whom it trusts.
    let run =
        "FROM scratch\nCOPY --from=build /etc/ssl/certs/ /etc/ssl/certs/\nCOPY --from=build /out/app /app\n";
    let command = exec(&["/app"]);
    format!("FROM {base} AS build\nWORKDIR /src\nCOPY . .\n{build}\n{run}{NOBODY}{command}")
}

fn rust(root: &Root, base: &ImageRef) -> Result<String, NoRecipe> {
    let broken = |why: String| NoRecipe::Broken { file: "Cargo.toml", why };
    let text = root.texts.get("Cargo.toml").ok_or(NoRecipe::NothingToStart { looked: "Cargo.toml" })?;
    let manifest: toml::Table =
        text.parse().map_err(|error: toml::de::Error| broken(error.message().to_owned()))?;
    let name_in = |table: Option<&toml::Value>| Some(table?.get("name")?.as_str()?.to_owned());
    let of_bin = manifest.get("bin").and_then(|bins| name_in(bins.as_array()?.first()));
    let name = of_bin.or_else(|| name_in(manifest.get("package")));
    let is_word = |name: &String| name.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it));
    let name = name
        .filter(is_word)
        .ok_or_else(|| broken("it names no package; build one of a workspace by `directory`".to_owned()))?;
    let locked = if root.has("Cargo.lock") { " --locked" } else { "" };
    let build =
        format!("RUN cargo build --release{locked} && install -D target/release/{name} /out/{name}\n");
    let program = format!("/usr/local/bin/{name}");
    let command = root.procfile().unwrap_or_else(|| exec(&[&program]));
    Ok(format!(
        "FROM {base} AS build\nWORKDIR /src\nCOPY . .\n{build}\nFROM {base}\nCOPY --from=build /out/{name} {program}\n{NOBODY}{command}"
    ))
}

fn java(root: &Root, base: &ImageRef) -> Result<String, NoRecipe> {
    let looked = "pom.xml, Main.java, App.java or Server.java";
    let head = format!("FROM {base}\nWORKDIR /src\nCOPY . .\n");
    if root.has("pom.xml") {
        // The one that can be started is the largest: others hold sources or documents.
        let build = "RUN mvn --batch-mode --quiet -DskipTests package && mkdir -p /app && cp \"$(ls -S target/*.jar | head -n 1)\" /app/app.jar\n";
        let command = root.procfile().unwrap_or_else(|| exec(&["java", "-jar", "/app/app.jar"]));
        return Ok(format!("{head}{build}WORKDIR /app\n{NOBODY}{command}"));
    }
    let main = root.first(&["Main.java", "App.java", "Server.java"]);
    let command = root.procfile().or_else(|| {
        let class = main?.trim_end_matches(".java");
        Some(exec(&["java", "-cp", "/app", class]))
    });
    let command = command.ok_or(NoRecipe::NothingToStart { looked })?;
    let build = "RUN mkdir -p /app && find . -name '*.java' > /tmp/files && javac -d /app @/tmp/files\n";
    Ok(format!("{head}{build}WORKDIR /app\n{NOBODY}{command}"))
}

fn php(root: &Root, base: &ImageRef) -> String {
    let install = if root.has("composer.json") {
        "RUN composer install --no-dev --no-interaction --optimize-autoloader\n"
    } else {
        ""
    };
    let at = root.first(&["public", "web"]).unwrap_or(".");
    let usual = || shell(&format!("php -S 0.0.0.0:${{PORT:-8080}} -t {at}"));
    let command = root.procfile().unwrap_or_else(usual);
    format!("FROM {base}\nWORKDIR /app\nCOPY . .\n{install}ENV PHP_CLI_SERVER_WORKERS=4\n{NOBODY}{command}")
}

fn ruby(root: &Root, base: &ImageRef) -> Result<String, NoRecipe> {
    let install = if root.has("Gemfile") { "RUN bundle install\n" } else { "" };
    let bundle = if root.has("Gemfile") { "bundle exec " } else { "" };
    let rack = root
        .has("config.ru")
        .then(|| shell(&format!("{bundle}rackup --host 0.0.0.0 --port ${{PORT:-8080}}")));
    let entry = root.first(&["main.rb", "app.rb", "server.rb"]);
    let plain = || entry.map(|entry| shell(&format!("{bundle}ruby {entry}")));
    let looked = "config.ru, main.rb, app.rb, server.rb";
    let command = root.procfile().or(rack).or_else(plain).ok_or(NoRecipe::NothingToStart { looked })?;
    Ok(format!("FROM {base}\nWORKDIR /app\nCOPY . .\n{install}{NOBODY}{command}"))
}

fn files(base: &ImageRef) -> String {
    let command = shell("busybox httpd -f -p ${PORT:-8080} -h /srv");
    format!("FROM {base}\nWORKDIR /srv\nCOPY . .\n{NOBODY}{command}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> Root {
        let mut root = Root::default();
        for (name, text) in files {
            root.note(name);
            if is_read(name) {
                root.texts.insert((*name).to_owned(), (*text).to_owned());
            }
        }
        root
    }

    #[test]
    fn files_tell_their_language() {
        for (files, language) in [
            (vec!["go.mod", "main.go"], Language::Go),
            (vec!["Main.java"], Language::Java),
            (vec!["package.json", "server.js"], Language::Node),
            (vec!["server.js"], Language::Node),
            (vec!["index.php", "index.html"], Language::Php),
            (vec!["app.py", "static"], Language::Python),
            (vec!["config.ru"], Language::Ruby),
            (vec!["index.html", "style.css"], Language::Static),
        ] {
            let files: Vec<(&str, &str)> = files.into_iter().map(|name| (name, "{}")).collect();
            let recipe = write(&root(&files), None, None).unwrap();
            assert_eq!(recipe.language, language, "{files:?}");
            assert!(recipe.dockerfile.contains(&format!("FROM {}", usual_base(language))));
            assert!(recipe.dockerfile.contains("USER 65534:65534\n"), "{}", recipe.dockerfile);
        }
        assert_eq!(write(&root(&[("README", "")]), None, None), Err(NoRecipe::UnknownLanguage));
        let nothing = write(&root(&[("lib.py", "")]), None, None);
        assert!(nothing.unwrap_err().to_string().contains("main.py, app.py, server.py"));
    }

    #[test]
    fn what_is_asked_for_takes_the_place_of_what_is_usual() {
        let base = "r.example/own:1".parse().unwrap();
        let both =
            root(&[("app.py", ""), ("index.html", ""), ("Procfile", "worker: x\nweb: gunicorn app:app \n")]);
        let python = write(&both, None, Some(&base)).unwrap().dockerfile;
        assert!(python.contains("FROM r.example/own:1\n"), "{python}");
        assert!(python.ends_with("CMD [\"/bin/sh\",\"-c\",\"exec gunicorn app:app\"]\n"), "{python}");
        assert_eq!(write(&both, Some(Language::Static), None).unwrap().language, Language::Static);
    }

    #[test]
    fn a_crate_is_known_by_its_first_program() {
        let of = |text: &str| write(&root(&[("Cargo.toml", text)]), None, None);
        assert!(of("[package]\nname = \"web-app\"").unwrap().dockerfile.contains("target/release/web-app"));
        let named = of("[package]\nname = \"web\"\n[[bin]]\nname = \"serve\"").unwrap();
        assert!(named.dockerfile.contains("target/release/serve"));
        assert!(matches!(of("[workspace]"), Err(NoRecipe::Broken { .. })));
        assert!(matches!(of("[package]\nname = \"a; rm -rf /\""), Err(NoRecipe::Broken { .. })));
    }
}
