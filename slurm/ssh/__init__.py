"""The way to a cluster over SSH: :class:`slurm.ssh.transport.SshTransport`."""
