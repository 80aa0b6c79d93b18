"""What each training sample did while it trained, recorded and read."""
