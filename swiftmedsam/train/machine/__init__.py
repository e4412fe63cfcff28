"""What training needs of the machine it runs on."""
