//! `plimsoll server install`: the control plane as a service of systemd, explained.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::Ended;
use crate::follow::talk;

/// Where systemd is, if it runs this machine.
const SYSTEMD: &str = "/run/systemd/system";

/// Where the unit is written.
const UNIT: &str = "/etc/systemd/system/plimsoll.service";

/// Where the settings are written.
const SETTINGS: &str = "/etc/plimsoll/server.toml";

/// Write the unit of a systemd service, and the file with its settings; print them where there is no systemd
#[derive(Args)]
pub(crate) struct Install {
    /// Only print them
    #[arg(long)]
    print: bool,
    /// The program that the service runs [default: this one, where it is]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// The settings of a server, with every key. What is commented out says what is so without it.
pub(crate) const EXAMPLE: &str = "\
# Settings of `plimsoll server --config`. Options and variables (PLIMSOLL_LISTEN and so on) come before them; a key that is not
# known is refused.

# Everything of the installation but, perhaps, its store.
data-dir = \"/var/lib/plimsoll/server\"

# Where the API listens. Anything but the loopback address is encrypted.
listen = \"127.0.0.1:7878\"

# The API's certificate with its chain, and its key, as PEM. Without them one is made in the data directory.
#tls-cert = \"/etc/plimsoll/tls.crt\"
#tls-key = \"/etc/plimsoll/tls.key\"

# Where routes are served: the address, 0.0.0.0 for all of this machine, and the ports, 0 for any.
#http-address = \"0.0.0.0\"
http-port = 8080
#https-port = 8443

# The ACME authority that gives certificates for routes with `tls: auto`, by its directory; you agree to its terms of service. It
# reaches this machine at the ports 80 and 443. Where it writes to, and by what it is trusted if this machine does not know it.
#acme-directory = \"https://acme-v02.api.letsencrypt.org/directory\"
#acme-contact = \"ada@example.org\"
#acme-ca = \"/etc/plimsoll/acme-ca.pem\"

# The PostgreSQL database that keeps everything; a file in the data directory does otherwise.
#store = \"postgres://plimsoll@localhost/plimsoll\"

# The file that opens the installation's secrets, from a place that no copy of the data directory has: a credential of systemd, an
# encrypted disk. `plimsoll key create` makes one, `plimsoll key change` seals what is there with it.
#key-file = \"/etc/plimsoll/key\"

# Login by an OpenID Connect provider: its address as its tokens have it, what it knows this control plane as (redirects to
# any port of 127.0.0.1 must be fine with it), the file with its secret where it has one, the claim that is a user's name here, and the users that administrate the platform.
#oidc-issuer = \"https://login.example.org\"
#oidc-client-id = \"plimsoll\"
#oidc-client-secret-file = \"/etc/plimsoll/oidc-secret\"
#oidc-user-claim = \"email\"
#oidc-admins = [\"ada@example.org\"]

# Clients of the Jolie cloud deployer, which show no tokens: where they are served, the project with a quota that their programs are
# loaded into, the networks that may come in beside this machine, and the runtime of their programs.
#compat = \"jolie\"
#compat-listen = \"127.0.0.1:8000\"
#compat-project = \"programs\"
#compat-allow = [\"10.1.0.0/16\"]
#compat-runtime = \"jolie\"

# Connections to the API at the same time; further ones wait.
#max-connections = 4096

# Requests of each caller in a second, and twice as many at once; 0 for no limit.
#max-rate = 1000
";

/// The unit, with the reason for each line that has one.
fn unit(program: &Path) -> String {
    format!(
        "\
[Unit]
Description=Plimsoll control plane and local node
Documentation=man:plimsoll(1)
Wants=network-online.target
After=network-online.target

[Service]
# The server says when it serves, and again and again that it is alive; one that hangs is started again.
Type=notify
WatchdogSec=60
ExecStart={} server --config {SETTINGS}
# Reads the certificate again after it was renewed.
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=1
# What runs outlives its control plane: only the server itself is ended, and a new one takes everything back. That is also
# how a new version is put in its place: replace the program, then `systemctl restart plimsoll`.
KillMode=process
# Requests that are being answered may finish for ten seconds.
TimeoutStopSec=30
# Instances are limited by control groups below this service's own.
Delegate=yes
StateDirectory=plimsoll
StateDirectoryMode=0711
LimitNOFILE=65536
UMask=0077
# It runs as root, because each project's programs run as a user of their own, in networks of their own. It needs none of these.
NoNewPrivileges=yes
LockPersonality=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
RestrictRealtime=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
",
        program.display()
    )
}

impl Install {
    #[expect(clippy::print_stdout, reason = "the files are this command's data")]
    pub(crate) fn run(self) -> anyhow::Result<Ended> {
        let program = match self.program {
            Some(program) => program,
            None => std::env::current_exe().context("this program cannot find itself")?,
        };
        let unit = unit(&program);
        if self.print || !Path::new(SYSTEMD).exists() {
            if !self.print {
                talk("systemd does not run this machine: these are the files that it would get");
            }
            print!("# {UNIT}\n{unit}\n# {SETTINGS}\n{EXAMPLE}");
            return Ok(Ended::Done);
        }
        // Settings that are there are somebody's.
        if Path::new(SETTINGS).exists() {
            talk(&format!("{SETTINGS} stays as it is"));
        } else {
            write(Path::new(SETTINGS), EXAMPLE)?;
        }
        write(Path::new(UNIT), &unit)?;
        talk("now: systemctl daemon-reload && systemctl enable --now plimsoll");
        talk("the admin token is then in /var/lib/plimsoll/server/admin.token");
        Ok(Ended::Done)
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let failed = || format!("{} cannot be written", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(failed)?;
    }
    std::fs::write(path, text).with_context(failed)?;
    talk(&format!("{} written", path.display()));
    Ok(())
}
