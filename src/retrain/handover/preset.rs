//! What is known of the usual orchestrators: `[[handovers]]` entries that lack only a few
//! parameters. A user's keys are laid over them, so each can be said anew.

/// The names of the presets.
pub const NAMES: [&str; 6] = [
    "airflow2",
    "airflow3",
    "argo",
    "kubeflow",
    "github",
    "kubernetes",
];

/// What every hand-over starts from, as TOML.
pub const ALL: &str = include_str!("presets/all.toml");

/// A preset, as TOML. A parameter that is empty in it has to be given.
pub fn text(name: &str) -> Option<&'static str> {
    Some(match name {
        "airflow2" => include_str!("presets/airflow2.toml"),
        "airflow3" => include_str!("presets/airflow3.toml"),
        "argo" => include_str!("presets/argo.toml"),
        "kubeflow" => include_str!("presets/kubeflow.toml"),
        "github" => include_str!("presets/github.toml"),
        "kubernetes" => include_str!("presets/kubernetes.toml"),
        _ => return None,
    })
}
