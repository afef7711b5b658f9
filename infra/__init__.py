"""Deployment: images, KubeRay manifests, a Slurm script, and what makes and checks them."""
