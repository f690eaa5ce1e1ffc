"""What training the networks needs: losses, teachers, discriminators, and tasks that a loop elsewhere steps through."""
