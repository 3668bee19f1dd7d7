//! The system-call side, by seccomp: what no task needs, and with `no_network` every socket.
//!
//! A list of refusals, not of permissions: tasks are of any language, and Landlock, the dropped
//! capabilities and no_new_privs carry the wall. This closes what those leave open.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Other processes, other name spaces, other mounts, the kernel itself.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_by_handle_at,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_userfaultfd,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
];

/// Programs that probe for these take another way when the kernel does not know them. `clone3`
/// carries its flags behind a pointer, where no filter can look.
const UNKNOWN: &[libc::c_long] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Flags of `clone` that make a new name space.
const NAMESPACES: [libc::c_int; 8] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    0x80, // CLONE_NEWTIME
];

/// System calls of the x32 way on x86_64 have this bit and the same architecture word, so a list
/// of plain numbers would not see them.
const X32_BIT: u32 = 0x4000_0000;

pub(super) fn supported() -> bool {
    arch().is_some()
}

fn arch() -> Option<TargetArch> {
    std::env::consts::ARCH.try_into().ok()
}

/// Puts the filters on this process. It has no_new_privs already, and loses the right to look back.
pub(super) fn refuse(no_network: bool) -> Result<(), String> {
    let always =
        |list: &[libc::c_long]| -> Rules { list.iter().map(|call| (*call, vec![])).collect() };
    let mut refused = always(REFUSED);
    let mut cloned = Vec::new();
    for flag in NAMESPACES {
        cloned.push(rule(0, flag as u64, flag as u64)?);
    }
    refused.insert(libc::SYS_clone, cloned);
    install(refused, libc::EPERM)?;
    install(always(UNKNOWN), libc::ENOSYS)?;
    if no_network {
        install(sockets()?, libc::EACCES)?;
    }
    Ok(())
}

/// Every new socket, and pairs of the kinds that can be sent elsewhere by an address.
fn sockets() -> Result<Rules, String> {
    let mut rules = Rules::new();
    rules.insert(libc::SYS_socket, vec![]);
    let kinds = [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_RDM];
    let mut pairs = Vec::new();
    for kind in kinds {
        pairs.push(rule(1, 0xf, kind as u64)?);
    }
    rules.insert(libc::SYS_socketpair, pairs);
    Ok(rules)
}

/// The argument's bits under the mask are these.
fn rule(argument: u8, mask: u64, bits: u64) -> Result<SeccompRule, String> {
    let op = SeccompCmpOp::MaskedEq(mask);
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, bits);
    let rule = condition.and_then(|condition| SeccompRule::new(vec![condition]));
    rule.map_err(|error| format!("the filter cannot be made: {error}"))
}

fn install(rules: Rules, errno: libc::c_int) -> Result<(), String> {
    let program = program(rules, errno)?;
    apply_filter(&program).map_err(|error| {
        format!(
            "the kernel refuses a seccomp filter ({error}); it must be built with SECCOMP_FILTER"
        )
    })
}

fn program(rules: Rules, errno: libc::c_int) -> Result<BpfProgram, String> {
    let arch = arch().ok_or("no filter for this processor")?;
    let answer = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, arch);
    let program = filter.and_then(BpfProgram::try_from);
    let mut program = program.map_err(|error| format!("the filter cannot be made: {error}"))?;
    if cfg!(target_arch = "x86_64") {
        let refuse = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        // Load the number; below the bit: go on; else refuse. Jumps are relative, so what follows
        // stays right.
        let x32 = [
            (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32_BIT),
            (libc::BPF_RET | libc::BPF_K, 0, 0, refuse),
        ];
        let x32 = x32.map(|(code, jt, jf, k)| sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        });
        program.splice(0..0, x32);
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Too long a list would be refused by the kernel at each start.
    #[test]
    fn the_filters_fit_into_what_the_kernel_takes() {
        let all: Rules = REFUSED.iter().map(|call| (*call, vec![])).collect();
        let program = program(all, libc::EPERM).unwrap();
        assert!(program.len() < 4_096, "{}", program.len());
        assert!(sockets().is_ok());
    }
}
