"""From the bytes of an untrusted video or image file to windows of RGB frames."""
