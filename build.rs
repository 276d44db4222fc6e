//! Migrations are compiled in by a macro that cannot see a file being added.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
