//! Keeps the agent's own directories out of what a launch brings into a container: by name they are refused, below
//! something else they are covered.

use std::path::{Path, PathBuf};

use model::{Fault, LaunchSpec};

use super::step::Step;
use super::{PlanContext, absolute, c_path};

/// Refuses a source that is one of the agent's directories or lies in one.
pub(super) fn check(spec: &LaunchSpec, ctx: &PlanContext) -> Result<(), Fault> {
    let sources = spec.volumes.iter().enumerate();
    let sources = sources.map(|(index, volume)| (format!("volumes.{index}.source"), &volume.source));
    let rootfs = spec.rootfs.iter().map(|path| ("rootfs".to_owned(), path));
    for (field, source) in sources.chain(rootfs) {
        let source = absolute(&field, source)?;
        if let Some(own) = hidden(ctx)?.into_iter().find(|own| source.starts_with(own)) {
            let message = format!(
                "{} lies in {}, which is the agent's own",
                source.display(),
                own.display()
            );
            return Err(Fault::invalid(field, message).remedy("copy or mount it to another place"));
        }
    }
    Ok(())
}

/// One cover for each of the agent's directories below the source of a volume or the rootfs.
pub(super) fn covers(spec: &LaunchSpec, ctx: &PlanContext) -> Result<Vec<Step>, Fault> {
    let brought = spec
        .volumes
        .iter()
        .map(|volume| (volume.source.as_path(), volume.target.as_path()))
        .chain(spec.rootfs.iter().map(|path| (path.as_path(), Path::new("/"))));
    let hidden = hidden(ctx)?;
    let mut covers = Vec::new();
    for (source, target) in brought {
        for own in &hidden {
            if let Ok(below) = own.strip_prefix(source) {
                covers.push(Step::Hide {
                    target: c_path("hidden", &target.join(below))?,
                    inner: None,
                });
            }
        }
    }
    Ok(covers)
}

fn hidden(ctx: &PlanContext) -> Result<Vec<PathBuf>, Fault> {
    ctx.hidden.iter().map(|path| absolute("hidden", path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Volume;

    fn context() -> PlanContext {
        PlanContext {
            id: "c0".parse().unwrap(),
            sandbox: "/var/lib/b/sandboxes/c0".into(),
            sandbox_target: "/var/lib/b/sandboxes/c0".into(),
            hidden: vec!["/var/lib/b".into(), "/run/b".into()],
            overlay_dir: None,
            hostname: "h".into(),
        }
    }

    fn with(source: &str) -> LaunchSpec {
        LaunchSpec {
            volumes: vec![Volume {
                source: source.into(),
                target: "/mnt/x".into(),
                read_only: true,
            }],
            ..LaunchSpec::default()
        }
    }

    fn covered(spec: &LaunchSpec) -> Vec<String> {
        covers(spec, &context())
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn own_directories_are_refused_by_name_and_covered_below_others() {
        for own in [
            "/var/lib/b",
            "/run/b",
            "/run/b/agent.sock",
            "/var/lib/b/sandboxes/other",
        ] {
            let fault = check(&with(own), &context()).unwrap_err();
            assert_eq!(fault.field.as_deref(), Some("volumes.0.source"), "{own}");
        }
        for fine in ["/var/lib/bb", "/var/lib", "/run", "/"] {
            check(&with(fine), &context()).unwrap();
        }
        assert_eq!(covered(&with("/var")), ["hide /mnt/x/lib/b"]);
        assert_eq!(
            covered(&with("/")),
            ["hide /mnt/x/var/lib/b", "hide /mnt/x/run/b"]
        );
        assert!(covered(&with("/srv")).is_empty());
    }

    #[test]
    fn a_rootfs_around_them_is_covered_too() {
        let mut spec = LaunchSpec {
            rootfs: Some("/run".into()),
            ..LaunchSpec::default()
        };
        assert_eq!(covered(&spec), ["hide /b"]);
        spec.rootfs = Some("/run/b/image".into());
        assert!(check(&spec, &context()).is_err());
    }
}
