# SPDX-License-Identifier: GPL-2.0
"""What a guest runs on: the kernels, QEMU and virtiofsd."""

import os
import subprocess

from .paths import BUILD, CACHE


def stock_release():
    """The release of the stock kernel that the tree serves."""
    with open('/etc/carisma-kernel', encoding='ascii') as file:
        return file.read().strip()


def kernel_image(kernel):
    """The path of a kernel's image."""
    if kernel == 'stock':
        return f'/usr/lib/modules/{stock_release()}/vmlinuz'
    if kernel == 'debug':
        return f'{CACHE}/debug/bzImage'
    raise ValueError(f'no such kernel: {kernel}')


def modules_path(kernel):
    """The folder, in the guest, of our modules for a kernel."""
    return f'{BUILD}/modules' if kernel == 'stock' else f'{BUILD}/modules-debug'


def kvm_works():
    """Whether KVM can run the stock kernel here.

    /dev/kvm may exist and still be unable to run an ordinary guest, so it is
    tried: a kernel without a root must come as far as to panic for the want of
    it. The verdict holds until the machine is started again.
    """
    verdict = f'{CACHE}/kernel/kvm'
    with open('/proc/sys/kernel/random/boot_id', encoding='ascii') as file:
        boot = file.read().strip()
    try:
        with open(verdict, encoding='ascii') as file:
            known, works = file.read().split()
        if known == boot:
            return works == 'yes'
    except (OSError, ValueError):
        pass

    works = False
    if os.access('/dev/kvm', os.R_OK | os.W_OK):
        try:
            trial = subprocess.run(
                ['qemu-system-x86_64', '-M', 'q35', '-accel', 'kvm', '-cpu', 'host',
                 '-m', '256', '-nodefaults', '-display', 'none', '-no-reboot',
                 '-serial', 'stdio', '-kernel', kernel_image('stock'),
                 '-append', 'console=ttyS0 panic=-1 root=none'],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=15, check=False)
            works = b'Unable to mount root fs' in trial.stdout
        except subprocess.TimeoutExpired:
            pass
    # Others may find out at the same time.
    new = f'{verdict}.{os.getpid()}'
    with open(new, 'w', encoding='ascii') as file:
        file.write(f'{boot} {"yes" if works else "no"}\n')
    os.replace(new, verdict)
    return works


def listens(path):
    """Whether somebody listens at a Unix socket, which has its path a moment before."""
    with open('/proc/net/unix', encoding='utf-8') as file:
        lines = [line.split() for line in file]
    # Number, references, protocol, flags (of which this is __SO_ACCEPTCON), ..., path.
    return any(line[3] == '00010000' and line[-1] == path for line in lines)


def virtiofsd(sockets):
    """The command that shows a guest the files."""
    return ['/usr/libexec/virtiofsd', '--shared-dir', '/', '--readonly',
            '--socket-path', f'{sockets}/fs',
            '--sandbox', 'none', '--cache', 'always', '--log-level', 'error']


def qemu(guest, sockets):
    """The command that runs a guest, whose sockets are in that folder."""
    if guest.icount:
        accel = ['-accel', 'tcg,thread=single', '-icount', 'shift=0', '-cpu', 'max']
    elif kvm_works():
        accel = ['-accel', 'kvm', '-cpu', 'host']
    else:
        # Without 5-level paging, with which KASAN was seen to report the kernel's own boot.
        accel = ['-accel', 'tcg,thread=multi', '-cpu', 'max,la57=off']
    append = ' '.join([
        'rootfstype=virtiofs root=rootfs ro init=/carisma/tests/guest/init',
        'console=ttyS0 loglevel=6 log_buf_len=4M panic=-1 oops=panic',
        'net.ifnames=0 random.trust_cpu=on',
        # A busy host stops the guest for seconds: that is no fault of it.
        'tsc=reliable no_timer_check rcupdate.rcu_cpu_stall_timeout=120',
        'sysctl.kernel.watchdog_thresh=60',
        f'carisma.name={guest.name}',
        # What takes the longest of all where every access is checked.
        *(['cryptomgr.notests', 'mitigations=off'] if guest.kernel == 'debug' else []),
    ])
    argv = [
        'qemu-system-x86_64', '-M', 'q35', *accel, '-smp', str(guest.smp),
        '-m', str(guest.mem), '-nodefaults', '-no-user-config',
        '-display', 'none', '-no-reboot',
        '-object', f'memory-backend-memfd,id=mem,size={guest.mem}M,share=on',
        '-numa', 'node,memdev=mem',
        '-chardev', f'socket,id=fs,path={sockets}/fs',
        '-device', 'vhost-user-fs-pci,chardev=fs,tag=rootfs',
        '-device', 'virtio-serial-pci',
        '-chardev', f'socket,id=agent,path={sockets}/agent,server=on,wait=off',
        '-device', 'virtserialport,chardev=agent,name=carisma.agent',
        '-chardev', f'file,id=console,path={guest.console},append=on',
        '-serial', 'chardev:console',
        '-kernel', kernel_image(guest.kernel), '-append', append,
    ]
    for number, (netdev, mac) in enumerate(guest.nics):
        argv += ['-netdev', f'{netdev},id=net{number}', '-device',
                 f'virtio-net-pci,netdev=net{number}' + (f',mac={mac}' if mac else '')]
    return argv + guest.arguments
